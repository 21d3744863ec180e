-- forget: drop chats in which PostgreSQL found nothing to send.
-- Guarantees: a chat that was announced to after its lease is kept and is ready at once: its message may be younger
--   than the look into PostgreSQL. Somebody else's lock is left alone.
-- KEYS: ready, leased, scheduled, epoch    ARGV: prefix, JSON list: for each chat its name, token
-- Returns: ms until the earliest chat that was kept is due (0), -1 where none was
--! include chat
local list, earliest = cjson.decode(ARGV[2]), -1
for i = 1, #list, 2 do
  local chat = list[i]
  local held = redis.call('HMGET', lock_of(chat), 'token', 'dirty')
  if held[1] == list[i + 1] then
    redis.call('DEL', lock_of(chat))
    redis.call('ZREM', leased, chat)
    if held[2] then
      redis.call('ZADD', ready, 'LT', now, chat)
      earliest = 0
    else
      redis.call('DEL', stream_of(chat), sorted_of(chat))
      redis.call('ZREM', ready, chat)
    end
  end
end
return earliest
