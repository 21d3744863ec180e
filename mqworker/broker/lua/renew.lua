-- renew: hold locked chats longer, as their rows' leases were.
-- Guarantees: only locks that are still ours are lengthened.
-- KEYS: ready, leased, scheduled, epoch    ARGV: prefix, lock_ms, then for each chat: chat, token
-- Returns: how many locks are still ours
--! include chat
local lock_ms, kept = tonumber(ARGV[2]), 0
for i = 3, #ARGV, 2 do
  local chat = ARGV[i]
  if redis.call('HGET', lock_of(chat), 'token') == ARGV[i + 1] then
    redis.call('PEXPIRE', lock_of(chat), lock_ms)
    redis.call('ZADD', leased, 'XX', now + lock_ms, chat)
    kept = kept + 1
  end
end
return kept
