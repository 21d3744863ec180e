-- drop: take cancelled messages out of their lanes and out of `scheduled`.
-- Guarantees: no other entry is touched; a chat that waited for the entry (its backoff) may go at once, and who holds
--   its lock is told to look again; a repeat changes nothing.
-- KEYS: ready, leased, scheduled, epoch    ARGV: prefix, JSON list: for each entry chat, seq, id, priority
-- Returns: 1
--! include chat
local list = cjson.decode(ARGV[2])
for i = 1, #list, 4 do
  local chat, seq, id, priority = list[i], list[i + 1], list[i + 2], list[i + 3]
  local _, head_seq = head_of(chat)
  drop(chat, seq, id)
  if head_seq == tonumber(seq) then
    redis.call('ZADD', ready, 'XX', 'LT', now, chat)
    if redis.call('EXISTS', lock_of(chat)) == 1 then redis.call('HSET', lock_of(chat), 'dirty', 1) end
  end
  redis.call('ZREM', scheduled, chat .. ':' .. priority .. ':' .. seq .. ':' .. id)
end
return 1
