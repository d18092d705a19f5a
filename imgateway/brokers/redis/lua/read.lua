-- Entries of a durable log. ARGV: shift_ms, bucket, log, after, limit, max_bytes
-- Answers {epoch, upto, gap (1, 0), head, {entry …}}; shared bodies are put in.
-- with log
local after, limit, max_bytes = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local log = load_log(ARGV[2], ARGV[3])
if after >= log.head then
  return {log.epoch, after, 0, log.head, {}}
end

local length = redis.call('LLEN', log.l)

local function seq_at(index)
  return (struct.unpack('>I8', redis.call('LINDEX', log.l, index)))
end

-- The place of the first entry behind `after`: seqs mostly have no holes, least of all at the end.
local low, high = 0, length
local likely = length - (log.head - after)
if after < log.first then
  high = 0
elseif likely >= 0 and seq_at(likely) == after + 1 then
  low, high = likely, likely
end
while low < high do
  local middle = math.floor((low + high) / 2)
  if seq_at(middle) > after then
    high = middle
  else
    low = middle + 1
  end
end

local entries, bytes, upto, gap = {}, 0, log.head, 0
local place, is_whole = low, true
while place < length and is_whole do
  local chunk = redis.call('LRANGE', log.l, place, place + math.min(limit, 32) - 1)
  place = place + #chunk
  for _, entry in ipairs(chunk) do
    local seq, at_s, expires_ms, size, kind, next_byte = struct.unpack(ENTRY, entry)
    if expires_ms == 0 or expires_ms > now then
      if #entries >= limit or bytes >= max_bytes then
        is_whole = false
        break
      end
      if kind == 1 then
        local only, except, rest = struct.unpack('Bc0Bc0', entry, next_byte)
        rest = entry:sub(next_byte + 2 + #only + #except)
        local message = redis.call('GET', key('shared', 'b', rest))
        if message then
          entry = struct.pack(ENTRY, seq, at_s, expires_ms, size, 0)
            .. entry:sub(next_byte, next_byte + 1 + #only + #except) .. message
        else
          entry, gap = nil, 1
        end
      end
      if entry then
        entries[#entries + 1] = entry
        bytes, upto = bytes + size, seq
      end
    end
  end
end
if is_whole then
  upto = log.head
end
if after < log.lost then
  gap = 1
end
for i = 1, #log.jumps, 2 do
  if after < log.jumps[i + 1] and upto >= log.jumps[i + 1] then
    gap = 1
  end
end
return {log.epoch, upto, gap, log.head, entries}
