-- Where devices stand in a log beside their mailboxes: ig:{b}:c:LOG, 'USER\0DEVICE' → a packed array with these
-- places. It stands with the log, and knows of its user's session only the generation that wrote it.
local GENERATION = 1
local ACKED = 2
local PARKED = 3
local SEEN_MS = 4

local function cursor_of(hash, field)
  local packed = redis.call('HGET', hash, field)
  return packed and cmsgpack.unpack(packed) or nil
end
