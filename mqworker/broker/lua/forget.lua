-- forget: drop chats in which PostgreSQL found nothing to send.
-- Guarantees: a chat that was announced to after its lease is kept and is ready at once: its message may be younger
--   than the look into PostgreSQL. Somebody else's lock is left alone.
-- KEYS: ready, leased, scheduled, epoch    ARGV: prefix, JSON list: for each chat its name, token
-- Returns: how many chats were forgotten
--! include chat
local list, forgotten = cjson.decode(ARGV[2]), 0
for i = 1, #list, 2 do
  local chat = list[i]
  local held = redis.call('HMGET', lock_of(chat), 'token', 'dirty')
  if held[1] == list[i + 1] then
    redis.call('DEL', lock_of(chat))
    redis.call('ZREM', leased, chat)
    if held[2] then
      redis.call('ZADD', ready, 'LT', now, chat)
    else
      redis.call('DEL', stream_of(chat), sorted_of(chat))
      redis.call('ZREM', ready, chat)
      forgotten = forgotten + 1
    end
  end
end
return forgotten
