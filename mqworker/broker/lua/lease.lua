-- lease: hand out chats that may go now, each locked for one worker.
-- Guarantees: a chat is handed out once until its lock ends or is released; at most `max` chats and a bounded number
--   of promotions a call. Only a hint: the claim in PostgreSQL decides.
-- KEYS: ready, leased, scheduled, epoch    ARGV: prefix, max, lock_ms, owner, token
-- Returns: {epoch or nil, ms until the next chat is due or -1, chat, its waiting entries, chat, ...}
--! include chat
local max, lock_ms, owner, token = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local PASS = 200

-- Scheduled messages that are due enter their chats' lanes.
for _, member in ipairs(redis.call('ZRANGE', scheduled, '-inf', now, 'BYSCORE', 'LIMIT', 0, PASS)) do
  local chat, priority, seq, id = string.match(member, '^([^:]*):(-?%d+):(%d+):(.*)$')
  redis.call('ZREM', scheduled, member)
  add(chat, seq, id, tonumber(priority))
  redis.call('ZADD', ready, 'LT', now, chat)
end
-- Leases that ended without a release: their worker died.
for _, chat in ipairs(redis.call('ZRANGE', leased, '-inf', now, 'BYSCORE', 'LIMIT', 0, PASS)) do
  redis.call('ZREM', leased, chat)
  redis.call('ZADD', ready, 'NX', now, chat)
end

local reply = {redis.call('GET', epoch), -1}
for _, chat in ipairs(redis.call('ZRANGE', ready, '-inf', now, 'BYSCORE', 'LIMIT', 0, max)) do
  redis.call('ZREM', ready, chat)
  local lock, depth = lock_of(chat), depth_of(chat)
  if redis.call('EXISTS', lock) == 1 then
    redis.call('HSET', lock, 'dirty', 1)
    -- Its holder may be dead: out of `leased` as well (its end is this very millisecond), the chat would be lost.
    redis.call('ZADD', leased, 'NX', now + math.max(redis.call('PTTL', lock), 0) + 1, chat)
  elseif depth > 0 then
    redis.call('HSET', lock, 'owner', owner, 'token', token, 'since_ms', string.format('%.0f', now))
    redis.call('PEXPIRE', lock, lock_ms)
    redis.call('ZADD', leased, now + lock_ms, chat)
    reply[#reply + 1] = chat
    reply[#reply + 1] = depth
  end
end

local next_due = -1
for _, key in ipairs({ready, scheduled, leased}) do
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
  local wait = first and math.max(tonumber(first) - now, 0)
  if wait and (next_due < 0 or wait < next_due) then next_due = wait end
end
reply[2] = next_due
return reply
