-- park: put accounts taken back, each with the time until its next due chat.
-- Guarantees: an announce that came after the take is not lost: it lowered the score, so it is no longer our guard, and
--   a score is then only lowered, never raised. -1 (nothing waits) keeps the account, at infinity; the sweep removes it.
-- KEYS: instances    ARGV: guard, then for each account: instance, wait_ms or -1
-- Returns: 1
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV, 2 do
  local wait_ms = tonumber(ARGV[i + 1])
  local score = wait_ms < 0 and 'inf' or now + wait_ms
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) == ARGV[1] then
    redis.call('ZADD', KEYS[1], score, ARGV[i])
  else
    redis.call('ZADD', KEYS[1], 'LT', score, ARGV[i])
  end
end
return 1
