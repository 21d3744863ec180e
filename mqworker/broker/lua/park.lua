-- park: put accounts taken back, each with the time until its next due chat.
-- Guarantees: what was told of an account after the take is not lost, however late this comes: the guard is gone then,
--   and a score is only lowered, never raised. -1 (nothing waits) keeps the account, at infinity; the sweep removes it.
-- KEYS: instances    ARGV: guard ('' for accounts that were not taken), then for each account: instance, wait_ms or -1
-- Returns: 1
--! include instances
for i = 2, #ARGV, 2 do
  local wait_ms = tonumber(ARGV[i + 1])
  local score = wait_ms < 0 and 'inf' or now + wait_ms
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) == ARGV[1] then
    redis.call('ZADD', KEYS[1], score, ARGV[i])
  else
    lower(ARGV[i], score)
  end
end
return 1
