-- point: say that these accounts have something due, and wake idle workers.
-- Guarantees: a score is only lowered. Sent after the lanes were written, so whoever finds the account finds the message.
-- KEYS: instances    ARGV: channel to wake ('' wakes nobody), instance, instance, ...
-- Returns: 1
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'LT', now, ARGV[i]) end
if ARGV[1] ~= '' then redis.call('PUBLISH', ARGV[1], '') end
return 1
