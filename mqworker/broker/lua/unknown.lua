-- unknown: find the waiting messages that nobody would come upon. Changes nothing.
-- Guarantees: an entry is known if it is in `scheduled`, or in a lane of a chat that is in `ready` or is leased.
-- KEYS: ready, leased, scheduled, epoch    ARGV: prefix, JSON list: for each entry chat, seq, id, priority
-- Returns: the places, from 0, of the entries that are not known
--! include chat
local function waits(chat, seq, id)
  if #redis.call('XRANGE', stream_of(chat), seq .. '-0', seq .. '-0') == 0
    and not redis.call('ZSCORE', sorted_of(chat), member_of(seq, id)) then return false end
  return redis.call('ZSCORE', ready, chat) or redis.call('ZSCORE', leased, chat)
end

local list, places = cjson.decode(ARGV[2]), {}
for i = 1, #list, 4 do
  local chat, seq, id, priority = list[i], list[i + 1], list[i + 2], list[i + 3]
  if not waits(chat, seq, id) and not redis.call('ZSCORE', scheduled, chat .. ':' .. priority .. ':' .. seq .. ':' .. id)
  then places[#places + 1] = (i - 1) / 4 end
end
return places
