-- take: hand out accounts that have a due chat, the longest due first.
-- Guarantees: an account taken is not handed out again before `guard_ms`, unless it is parked or announced to; a worker
--   that dies before it parks delays the account by no more than that.
-- KEYS: instances    ARGV: max, guard_ms
-- Returns: {guard (a score for park), ms until an account is due (0: these are) or -1, instance, instance, ...}
--! include instances
local guard = now + tonumber(ARGV[2]) + 0.5
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
local wait = first and first ~= 'inf' and math.max(math.ceil(tonumber(first)) - now, 0) or -1
local reply = {string.format('%.1f', guard), wait}
if wait == 0 then
  for _, instance in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[1]))) do
    redis.call('ZADD', KEYS[1], string.format('%.1f', guard), instance)
    reply[#reply + 1] = instance
  end
end
return reply
