-- finish: let leased chats go again, each with the time at which it may go next.
-- Guarantees: the entry named is in its lane or gone, as told; the lock is released if it is ours; the chat is in `ready` at
--   its next time, also when nothing waits (so that its gap, if any, is known until it has passed). A chat that was announced
--   to meanwhile goes after `gap_ms`, not after `wait_ms`: a new message may outrank the one that waits. With a
--   negative `wait_ms` its lease goes on, and only the entry is looked at.
-- KEYS: ready, leased, scheduled, epoch
-- ARGV: prefix, JSON list: for each chat its name, token ('' breaks anybody's lock), action, seq, id, priority,
--   wait_ms, gap_ms
--   action: `drop` the entry, `keep` it (put in again if Redis lost it), or '' (no entry is named)
-- Returns: ms until the earliest of these chats is due, -1 for none
--! include chat
local list, earliest = cjson.decode(ARGV[2]), -1
for i = 1, #list, 8 do
  local chat, token, action, seq, id = list[i], list[i + 1], list[i + 2], list[i + 3], list[i + 4]
  local priority, wait_ms, gap_ms = list[i + 5], list[i + 6], list[i + 7]
  if action == 'drop' then drop(chat, seq, id) elseif action == 'keep' then add(chat, seq, id, priority) end
  local held = wait_ms >= 0 and redis.call('HMGET', lock_of(chat), 'token', 'dirty')
  if not held then
    -- The chat sends its next message at once.
  elseif held[1] and token ~= '' and held[1] ~= token then
    -- Somebody else leased it after our lock was lost: tell them to look again when they let go.
    redis.call('HSET', lock_of(chat), 'dirty', 1)
  else
    redis.call('DEL', lock_of(chat))
    redis.call('ZREM', leased, chat)
    local due_ms = held[2] and gap_ms or wait_ms
    if due_ms > 0 or redis.call('EXISTS', stream_of(chat), sorted_of(chat)) > 0 then
      redis.call('ZADD', ready, 'LT', now + due_ms, chat)
      if earliest < 0 or due_ms < earliest then earliest = due_ms end
    end
  end
end
return earliest
