-- unlease: let leased chats go at once, whoever holds them.
-- Guarantees: a bounded number of chats a call; each is in `ready` afterwards, at its time where it was there before.
--   Whoever still holds one finds its lock gone and harms nobody: the claim in PostgreSQL decides.
-- KEYS: ready, leased, scheduled, epoch    ARGV: prefix
-- Returns: how many chats were leased; call again until that is 0
--! include chat
local PASS = 500
local chats = redis.call('ZRANGE', leased, 0, PASS - 1)
for _, chat in ipairs(chats) do
  redis.call('ZREM', leased, chat)
  redis.call('DEL', lock_of(chat))
  redis.call('ZADD', ready, 'NX', now, chat)
end
return #chats
