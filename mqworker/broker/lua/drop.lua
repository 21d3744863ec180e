-- drop: take cancelled messages out of their lanes and out of `scheduled`.
-- Guarantees: nothing but the entries named is touched; a repeat changes nothing.
-- KEYS: ready, leased, scheduled, epoch    ARGV: prefix, JSON list: for each entry chat, seq, id, priority
-- Returns: 1
--! include chat
local list = cjson.decode(ARGV[2])
for i = 1, #list, 4 do
  local chat, seq, id, priority = list[i], list[i + 1], list[i + 2], list[i + 3]
  drop(chat, seq, id)
  redis.call('ZREM', scheduled, chat .. ':' .. priority .. ':' .. seq .. ':' .. id)
end
return 1
