-- chat: what the commands share about one chat's lanes.
-- Every command gets KEYS ready, leased, scheduled, epoch of one account, and as ARGV[1] the prefix of its chat keys.
local ready, leased, scheduled, epoch = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local prefix = ARGV[1]

-- Redis' own clock in ms: no client's clock decides anything.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function stream_of(chat) return prefix .. chat .. ':stream' end
local function sorted_of(chat) return prefix .. chat .. ':sorted' end
local function lock_of(chat) return prefix .. chat .. ':lock' end

-- Members of the sorted lane compare by seq: padded, so that text order is number order.
local function member_of(seq, id) return string.format('%019d', seq) .. ':' .. id end

-- The best waiting entry as far as Redis knows: priority, seq; nil where nothing waits.
local function head_of(chat)
  local first = redis.call('XRANGE', stream_of(chat), '-', '+', 'COUNT', 1)[1]
  local seq = first and tonumber(string.match(first[1], '^(%d+)'))
  local best = redis.call('ZRANGE', sorted_of(chat), 0, 0, 'WITHSCORES')
  if not best[1] then return seq and 0, seq end
  local priority, best_seq = -tonumber(best[2]), tonumber(string.sub(best[1], 1, 19))
  if seq and (priority < 0 or (priority == 0 and seq < best_seq)) then return 0, seq end
  return priority, best_seq
end

-- How many entries wait.
local function depth_of(chat) return redis.call('XLEN', stream_of(chat)) + redis.call('ZCARD', sorted_of(chat)) end

-- Whether the entry just added is the best of several: alone in its chat it has no other to outrank.
local function is_new_head(chat, seq)
  local _, head_seq = head_of(chat)
  if head_seq ~= tonumber(seq) then return false end
  return depth_of(chat) > 1
end

-- Put an entry into its lane. A repeat changes nothing; a late seq (lower than one that the stream has had) and any
-- priority but 0 go to the sorted lane. Returns whether the entry is new.
local function add(chat, seq, id, priority)
  -- A late entry must not stand in the stream as well, once that was emptied and has forgotten its last seq.
  if redis.call('ZSCORE', sorted_of(chat), member_of(seq, id)) then return false end
  if priority == 0 then
    local added = redis.pcall('XADD', stream_of(chat), seq .. '-0', 'id', id)
    if not added.err then return true end
    if #redis.call('XRANGE', stream_of(chat), seq .. '-0', seq .. '-0') > 0 then return false end
  end
  return redis.call('ZADD', sorted_of(chat), 'NX', -priority, member_of(seq, id)) == 1
end

-- Take an entry out of its lanes; an emptied stream goes, so that an idle chat costs nothing.
local function drop(chat, seq, id)
  local stream = stream_of(chat)
  if redis.call('XDEL', stream, seq .. '-0') == 1 then
    redis.pcall('XACK', stream, 'workers', seq .. '-0')
  else
    redis.call('ZREM', sorted_of(chat), member_of(seq, id))
  end
  if redis.call('XLEN', stream) == 0 then redis.call('DEL', stream) end
end
