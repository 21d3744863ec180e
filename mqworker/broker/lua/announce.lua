-- announce: make waiting messages known. Adds only: it never removes an entry, so a rebuild cannot lose a live one.
-- Guarantees: every entry is in a lane or in `scheduled` afterwards, and its chat is in `ready` or is leased; a chat
--   whose new head outranks the one it waits for may go at once (PostgreSQL says if that was too early).
-- KEYS: ready, leased, scheduled, epoch    ARGV: prefix, JSON list: for each entry chat, seq, id, priority, due_ms
-- Returns: how many entries were new
--! include chat

local list, added = cjson.decode(ARGV[2]), 0
for i = 1, #list, 5 do
  local chat, seq, id, priority, due_ms = list[i], list[i + 1], list[i + 2], list[i + 3], list[i + 4]
  if due_ms > 0 then
    local member = chat .. ':' .. priority .. ':' .. seq .. ':' .. id
    added = added + redis.call('ZADD', scheduled, now + due_ms, member)
  else
    local new = add(chat, seq, id, priority)
    if new then added = added + 1 end
    if redis.call('ZSCORE', leased, chat) then
      -- The holder of a lease looks at this mark when it lets go: without it this wake-up would be lost.
      if new and redis.call('EXISTS', lock_of(chat)) == 1 then redis.call('HSET', lock_of(chat), 'dirty', 1) end
    else
      local due = redis.call('ZSCORE', ready, chat)
      -- A chat that waits may wait for its gap, or for the backoff of its head; a new head ends the second.
      if not due or (tonumber(due) > now and new and is_new_head(chat, seq)) then
        redis.call('ZADD', ready, now, chat)
      end
    end
  end
end
return added
