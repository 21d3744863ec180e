-- drop: take cancelled messages out of their lanes and out of `scheduled`.
-- Guarantees: nothing but the entries named is touched; a repeat changes nothing.
-- KEYS: ready, leased, scheduled, epoch    ARGV: prefix, then for each entry: chat, seq, id, priority
-- Returns: 1
--! include chat
for i = 2, #ARGV, 4 do
  local chat, seq, id, priority = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  drop(chat, seq, id)
  redis.call('ZREM', scheduled, chat .. ':' .. priority .. ':' .. seq .. ':' .. id)
end
return 1
