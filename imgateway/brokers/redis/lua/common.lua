-- What every script finds: put before it, and around it, when it is loaded.
--
--   shift_ms             what tests move the time by; ARGV[1], the script's own arguments begin at ARGV[2], and
--                        the last argument is taken away
--   now                  the server's time in ms, moved by shift_ms
--   primary_generation   how often this primary came back with other data (see greet.lua)
--   key(bucket, kind, ...)          'ig:{bucket}:kind:rest:…'
--   is_of_this_data(epoch)          whether positions that a node knew with this epoch are of the logs that are here
--   stand_as(acked, parked, said_acked, said_parked)   a place, as a node says: acked, parked. '-': it does not know
--                        what is parked, and that stays; and so it does if it says less than is acked, which is older.
--                        If it says the same, what is not parked up to there was taken since
--   tell(node, kind, ...)           collect a hint {kind, …} for a node
--   tell_packed(node, packed)       the same for what cmsgpack.pack({kind, …}) gave: it is packed once for many
--   free_first()         before the first write of a script that takes away: a server that has no memory left refuses
--                        writes that might need some, but only until a script made one that needs none
--   flush()              publish what was collected, one message a node; returns {node = true} of those
--                        that nobody listens for, so that the script forgets them (nil: none)
--   once(kind, node, number, answered, work)   what work() answers, run once for each number of this kind that
--                        this node gives; the answer is kept until its number is among `answered`. '0': no number
--
-- A script is run again, with the same arguments, when its answer was lost: it must answer the same and change
-- nothing more.

local generation = redis.call('HGET', 'ig:primary', 'n') or '0'

-- No call overtakes one that was sent before it. Redis may refuse one and a moment later take the next (NOREPLICAS,
-- BUSY …), and of a refused one nothing can be written down; so each says which of the line's it is, and runs only
-- when the last one before it did. A newer connection of the same node, or a new generation, ends a line as well.
--   ig:line:node   'generation.connection.number' of the call that ran last; it stays until some time after the node
--                  was buried, however the server's clock is set
-- The last argument: 'node connection number-of-the-last-before number', which are equal for one that does not count;
-- '' on a line that only reads.
local line, connection, before, number = table.remove(ARGV):match('^(.*) (%d+) (%d+) (%d+)$')
if line and redis.call('GET', 'ig:line:' .. line) ~= generation .. '.' .. connection .. '.' .. before then
  return {err = 'FENCED greet again, and send again what has no answer'}
end

local shift_ms = tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + shift_ms
local primary_generation = tonumber(generation)

local function key(bucket, kind, ...)
  return table.concat({'ig:{' .. bucket .. '}', kind, ...}, ':')
end

local function is_of_this_data(epoch)
  return redis.call('HGET', 'ig:primary', 'epoch') == epoch
end

local function stand_as(acked, parked, said_acked, said_parked)
  if said_parked == '-' or said_acked < acked then
    said_parked = parked
  elseif said_acked == acked and said_parked ~= '' then
    local there, left = ',' .. parked .. ',', {}
    for seq in said_parked:gmatch('%d+') do
      if tonumber(seq) > acked or there:find(',' .. seq .. ',', 1, true) then
        left[#left + 1] = seq
      end
    end
    said_parked = table.concat(left, ',')
  end
  return math.max(acked, said_acked), said_parked
end

local told = {}
local told_order = {}

local function told_to(node)
  local items = told[node]
  if not items then
    items = {}
    told[node] = items
    told_order[#told_order + 1] = node
  end
  return items
end

local function tell(node, ...)
  local items = told_to(node)
  items[#items + 1] = {...}
end

local function tell_packed(node, packed)
  local items = told_to(node)
  items[#items + 1] = packed
  items.has_packed = true
end

-- What is already packed stays so, in its place among what is not.
local function joined(items)
  for i, item in ipairs(items) do
    if type(item) == 'table' then
      items[i] = cmsgpack.pack(item)
    end
  end
  local n = #items
  -- The head of a MessagePack array.
  items[0] = n < 16 and string.char(0x90 + n) or '\220' .. string.char(math.floor(n / 256), n % 256)
  return table.concat(items, '', 0)
end

local function flush()
  local gone
  for _, node in ipairs(told_order) do
    local items = told[node]
    -- All of it in one go costs half of one by one.
    local payload = items.has_packed and joined(items) or cmsgpack.pack(items)
    if redis.call('PUBLISH', 'ig:node:' .. node, payload) == 0 then
      gone = gone or {}
      gone[node] = true
    end
  end
  told, told_order = {}, {}
  return gone
end

local function free_first()
  redis.call('UNLINK', 'ig:nothing')
end

local function once(kind, node, number, answered, work)
  if number == '0' then
    return work()
  end
  local kept = 'ig:answers:' .. node .. ':' .. kind
  local answer = redis.call('HGET', kept, number)
  if answer then
    return cmsgpack.unpack(answer)
  end
  answer = work()
  redis.call('HSET', kept, number, cmsgpack.pack(answer))
  for n = 1, #answered, 1000 do
    redis.call('HDEL', kept, unpack(answered, n, math.min(n + 999, #answered)))
  end
  if number % 64 == 1 then
    redis.call('PEXPIRE', kept, 86400000)  -- of a node that is gone
  end
  return answer
end

-- The first write: when it is refused, nothing was changed.
local function count()
  if line and number ~= before then
    redis.call('SET', 'ig:line:' .. line, generation .. '.' .. connection .. '.' .. number)
  end
end

local function body()
  count()
-- the script stands here
end

local ok, answer = pcall(body)
if not ok then
  -- Some versions have a table of a command's error, some its text.
  local text = type(answer) == 'table' and answer.err or tostring(answer)
  return {err = text:find('^%u+ ') and text or 'ERR ' .. text}
end
return answer
