-- Sessions: a device of a user, and who has it.
--
-- A user's hash ig:{b}:u:USER has 'nb' (tokens from before these Unix seconds are revoked), 'seen' (the furthest
-- that any device acknowledged in the mailbox) and 'd:DEVICE', a packed array with these places:
local GENERATION = 1
local NODE = 2 -- the incarnation that has the session open; '' none
local ACKED = 3 -- in the mailbox
local SEEN_MS = 4
local SINCE_MS = 5
local PLATFORM = 6
local ISSUED_S = 7 -- of the token
local ORDER = 8
local CLAIMS = 9 -- the last claims of it, newest first, so that one that comes again is known
local PARKED = 10 -- seqs of the mailbox: '4,5,6'
local GONE = 11 -- the close code with which this generation was displaced; 0: it was not
local AWAY = 12 -- 1: its client is gone and may come back
local RESUMED = 13 -- 1: an older generation was open when it was claimed
local ASKED_MS = 14 -- when its client asked for it, or earlier; nil or 0: nobody knows
local WRITTEN = 15 -- how often the primary had come back with other data when this was written; nil: by an older version
-- What a login alone wants to know stands apart, in ig:{b}:x:USER: 'r:DEVICE', what the wire keeps, and
-- 'f:DEVICE', the logs that the device follows, one a line; and 'g:DEVICE', packed {device, follows, …} that its last
-- claim made the user forget, until its next one: its node drops their places, and may have to ask again.
local STALE = 7

local function user_key(bucket, user)
  return key(bucket, 'u', user)
end

local function more_key(bucket, user)
  return key(bucket, 'x', user)
end

local function device_of(hash, device)
  local packed = redis.call('HGET', hash, 'd:' .. device)
  return packed and cmsgpack.unpack(packed) or nil
end

local function keep(hash, device, state)
  state[ASKED_MS], state[WRITTEN] = state[ASKED_MS] or 0, primary_generation
  redis.call('HSET', hash, 'd:' .. device, cmsgpack.pack(state))
end

-- What a node says its devices acknowledged, which another one, or this one before a promotion, may not have written.
local function raise_seen(hash, seen)
  if seen > tonumber(redis.call('HGET', hash, 'seen') or 0) then
    redis.call('HSET', hash, 'seen', seen)
  end
end

-- 0: this node has this generation of the session, or with '' for a node nobody has it any more; else the code to close
-- it with.
local function fence(state, generation, node)
  if not state or state[GENERATION] ~= generation then
    return STALE
  elseif state[NODE] == node then
    return 0
  end
  return state[GONE] ~= 0 and state[GONE] or STALE
end

-- Is this a claim that an older primary granted, and that this one, promoted since, has never heard of?
local function is_lost(state, generation)
  return (not state or state[GENERATION] < generation)
    and math.floor(generation / 4294967296) < primary_generation
end

-- All of a user: devices by name, not_before, seen.
local function all_of(hash)
  local fields = redis.call('HGETALL', hash)
  local states, not_before_s, seen = {}, 0, 0
  for i = 1, #fields, 2 do
    local name = fields[i]
    if name == 'nb' then
      not_before_s = tonumber(fields[i + 1])
    elseif name == 'seen' then
      seen = tonumber(fields[i + 1])
    else
      states[name:sub(3)] = cmsgpack.unpack(fields[i + 1])
    end
  end
  return states, not_before_s, seen
end

-- A device's session ends for another's sake. Its claim is not the newest any more: should it come again, it
-- lost.
local function displace(hash, user, device, state, code, node)
  if state[NODE] ~= node then
    tell(state[NODE], 'd', user, device, state[GENERATION], code)
  end
  state[NODE], state[GONE], state[SEEN_MS] = '', code, now
  state[CLAIMS] = string.rep('\0', 8) .. state[CLAIMS]:sub(1, 16)
  keep(hash, device, state)
end

-- {device, generation, …}: what a node has of a user's sessions.
local function had_by(states, node)
  local mine = {}
  for device, state in pairs(states) do
    if state[NODE] == node then
      mine[#mine + 1] = device
      mine[#mine + 1] = state[GENERATION]
    end
  end
  return mine
end
