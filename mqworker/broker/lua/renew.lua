-- renew: hold locked chats longer, as their rows' leases were.
-- Guarantees: only locks that are still ours are lengthened.
-- KEYS: ready, leased, scheduled, epoch    ARGV: prefix, JSON list: for each chat its name, token; lock_ms
-- Returns: how many locks are still ours
--! include chat
local list, lock_ms, kept = cjson.decode(ARGV[2]), tonumber(ARGV[3]), 0
for i = 1, #list, 2 do
  local chat = list[i]
  if redis.call('HGET', lock_of(chat), 'token') == list[i + 1] then
    redis.call('PEXPIRE', lock_of(chat), lock_ms)
    redis.call('ZADD', leased, 'XX', now + lock_ms, chat)
    kept = kept + 1
  end
end
return kept
