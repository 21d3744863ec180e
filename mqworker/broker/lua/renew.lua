-- renew: hold locked chats longer, as their rows' leases were.
-- Guarantees: only locks that are still ours are lengthened. XPENDING shows from now on who holds the chat's first
--   entry since when; sends shorter than their first lock are over by then, and are spared the consumer group.
-- KEYS: ready, leased, scheduled, epoch    ARGV: prefix, JSON list: for each chat its name, token; lock_ms
-- Returns: how many locks are still ours
--! include chat
local list, lock_ms, kept = cjson.decode(ARGV[2]), tonumber(ARGV[3]), 0

local function record(chat, owner, since_ms)
  local priority, seq = head_of(chat)
  if priority ~= 0 then return end
  local stream, entry = stream_of(chat), string.format('%.0f-0', seq)
  local claim = {'XCLAIM', stream, 'workers', owner, 0, entry, 'TIME', since_ms, 'FORCE', 'JUSTID'}
  if redis.pcall(unpack(claim)).err then
    redis.call('XGROUP', 'CREATE', stream, 'workers', '0')
    redis.call(unpack(claim))
  end
end

for i = 1, #list, 2 do
  local chat = list[i]
  local held = redis.call('HMGET', lock_of(chat), 'token', 'owner', 'since_ms')
  if held[1] == list[i + 1] then
    record(chat, held[2], held[3])
    redis.call('PEXPIRE', lock_of(chat), lock_ms)
    redis.call('ZADD', leased, 'XX', now + lock_ms, chat)
    kept = kept + 1
  end
end
return kept
