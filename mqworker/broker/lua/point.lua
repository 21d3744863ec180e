-- point: say that these accounts have something due, and wake idle workers.
-- Guarantees: a score is only lowered, and no park of a worker that looked before this raises it. Sent after the lanes
--   were written, so whoever finds the account finds the message.
-- KEYS: instances    ARGV: channel to wake ('' wakes nobody), instance, instance, ...
-- Returns: 1
--! include instances
for i = 2, #ARGV do lower(ARGV[i], now) end
if ARGV[1] ~= '' then redis.call('PUBLISH', ARGV[1], '') end
return 1
