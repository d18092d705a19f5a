-- Where devices stand in a log beside their mailboxes: ig:{b}:c:LOG, 'USER\0DEVICE' → a packed array with these
-- places. It stands with the log, and knows of its user's session only the generation that wrote it.
local GENERATION = 1
local ACKED = 2
local PARKED = 3
local SEEN_MS = 4
-- ig:{b}:left:LOG\0USER\0DEVICE, where a device stands no more: the generation that left, for so long. A node that
-- stood still meanwhile would else put the place back that it knows of an older one, and who follows nothing would hold
-- back what the log may drop.
local LEFT_MS = 14400000

local function cursor_of(hash, field)
  local packed = redis.call('HGET', hash, field)
  return packed and cmsgpack.unpack(packed) or nil
end

local function left_key(bucket, log, field)
  return key(bucket, 'left', log .. '\0' .. field)
end

-- The generation whose word is the last one there: what an older one says is stale.
local function newest(cursor, bucket, log, field)
  return cursor and cursor[GENERATION] or tonumber(redis.call('GET', left_key(bucket, log, field)) or 0)
end
