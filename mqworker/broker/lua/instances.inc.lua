-- instances: what take, park and point share about the accounts' due times. KEYS[1] is their set.
-- A score with a half in it is a guard: the account is with a worker that took it and will park it.

-- Redis' own clock in ms: no client's clock decides anything.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Have an account due no later than `score`. Its guard, though earlier than that, loses its half: the worker that
-- took it looked before this was known, and must not raise the score when it parks.
local function lower(instance, score)
  redis.call('ZADD', KEYS[1], 'LT', score, instance)
  local current = redis.call('ZSCORE', KEYS[1], instance)
  if score ~= 'inf' and string.sub(current, -2) == '.5' then
    redis.call('ZADD', KEYS[1], math.floor(tonumber(current)), instance)
  end
end
