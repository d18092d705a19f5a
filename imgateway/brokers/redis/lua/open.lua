-- Claim a session. ARGV: shift_ms, bucket, user, device, platform, policy, start, issued_at_s, by_order (1: the
-- newest order wins), order, claim (8 bytes, drawn for this login), node, most devices, mailbox,
-- primary's generation, earliest, latest: when its client asked, by the clock that the primary had then (ms; the node
-- cannot tell if the generation is another than this one's, or 0).
--
-- Answers {verdict, ours}, or {OK, ours, generation, known, resumed, since_ms, epoch, first, head, acked, begun,
-- parked, record, follows, {device, follows, …} that are forgotten}. ours: {device, generation, …} that this node has
-- of the user's now. begun: 1 where no device acknowledged as far as acked: this one only began there.
-- A claim that comes again gets the answer that it had, or hears that it was displaced meanwhile. What it
-- displaced itself at its node, that finds in `ours`.
-- with log
-- with leases
-- with session
local OK, CONFLICT, REVOKED, OUTRUN = 0, 1, 2, 3
local ONE_PER_PLATFORM, ONE, REFUSE = 1, 2, 3
local HEAD, OLDEST = 1, 2
local REPLACED, DISPLACED = 201, 202
local LATE_MS = 100 -- a claim that was on its way for so long may be too late

local bucket, user, device, platform = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local policy, start, issued_at_s = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local by_order, order, claim, node = ARGV[9] == '1', tonumber(ARGV[10]), ARGV[11], ARGV[12]
local most, is_dated = tonumber(ARGV[13]), tonumber(ARGV[15]) == primary_generation
local earliest_ms = is_dated and math.min(tonumber(ARGV[16]), now) or 0
local latest_ms = is_dated and math.min(tonumber(ARGV[17]), now) or now
local hash, more = user_key(bucket, user), more_key(bucket, user)
local states, not_before_s, seen = all_of(hash)
local state = states[device]

local function claimed_as()
  for i = 1, state and #state[CLAIMS] or 0, 8 do
    if state[CLAIMS]:sub(i, i + 7) == claim then
      return i
    end
  end
end

local function is_open(one)
  return is_held(one) or (one[NODE] == node and is_vouched_for(one))
end

local function displaces(name, other)
  return name ~= device and (policy == ONE or (policy == ONE_PER_PLATFORM and other[PLATFORM] == platform))
end

-- By order is among those who are there; whoever is away may be followed by anybody.
local function is_out_of_order()
  return by_order and state and state[AWAY] == 0 and state[ORDER] > order and is_open(state)
end

-- A claim may wait at a node for the server, and its client give up and come to another one. Whoever asked after
-- that stays, whichever of them is here first. Who is told so does not come again by itself, so it must be certain:
-- nobody is too late where it is not known when the other one was asked for, or by whose clock. (What is dated after
-- now says only that the clock was put back.)
local function is_too_late()
  if now - latest_ms <= LATE_MS then
    return false
  end
  for name, other in pairs(states) do
    local is_dated_here = math.floor(other[GENERATION] / 4294967296) == primary_generation
    local since = is_dated_here and other[ASKED_MS] or 0
    local is_newer = name == device and by_order and order > other[ORDER]
    if (name == device or displaces(name, other)) and is_open(other) and not is_newer
      and since > latest_ms and since <= now then
      return true
    end
  end
  return false
end

local place = claimed_as()
local is_again = place == 1 and state[NODE] == node
if not is_again then
  if issued_at_s < not_before_s then
    return {REVOKED, had_by(states, node)}
  elseif place then
    return {OUTRUN, had_by(states, node)}
  end
  if policy == REFUSE then
    for name, other in pairs(states) do
      if name ~= device and is_open(other) then
        return {CONFLICT, had_by(states, node)}
      end
    end
  end
  if is_out_of_order() or is_too_late() then
    return {OUTRUN, had_by(states, node)}
  end
end

local epoch, first, head = position(bucket, ARGV[14])
local forgotten = {}
if not is_again then
  local generation = primary_generation * 4294967296 + redis.call('INCR', 'ig:sessions')
  local resumed = state and is_open(state) and 1 or 0
  for name, other in pairs(states) do
    -- Also one whose node seems to be dead: it may only have been silent.
    if other[NODE] ~= '' and displaces(name, other) then
      displace(hash, user, name, other, DISPLACED, node)
    end
  end
  local claims, acked, parked = claim, nil, ''
  if state then
    if state[NODE] ~= '' and state[NODE] ~= node then
      -- By order, an equal one is the same login on another connection: nobody took its place.
      tell(state[NODE], 'd', user, device, state[GENERATION], by_order and state[ORDER] == order and STALE or REPLACED)
    end
    claims, acked, parked = claim .. state[CLAIMS]:sub(1, 16), state[ACKED], state[PARKED]
  else
    acked = start == HEAD and head or start == OLDEST and first - 1 or math.min(seen, head)
    -- The longest unseen make place; those who are open never do.
    local closed, count = {}, 1
    for name, other in pairs(states) do
      count = count + 1
      if not is_open(other) then
        closed[#closed + 1] = name
      end
    end
    table.sort(closed, function(one, other)
      local a, b = states[one][SEEN_MS], states[other][SEEN_MS]
      return a < b or (a == b and one < other)
    end)
    for i = 1, math.min(count - most, #closed) do
      local name = closed[i]
      local follows = redis.call('HGET', more, 'f:' .. name)
      if follows then
        forgotten[#forgotten + 1] = name
        forgotten[#forgotten + 1] = follows
      end
      redis.call('HDEL', more, 'f:' .. name, 'r:' .. name, 'g:' .. name)
      redis.call('HDEL', hash, 'd:' .. name)
      states[name] = nil
    end
  end
  state = {
    generation, node, acked, now, now, platform, issued_at_s, order, claims, parked, 0, 0, resumed, earliest_ms,
  }
  states[device] = state
  keep(hash, device, state)
  flush()
end

local known = #state[CLAIMS] > 8 and 1 or 0
local kept = redis.call('HMGET', more, 'r:' .. device, 'f:' .. device, 'g:' .. device)
if #forgotten > 0 then
  redis.call('HSET', more, 'g:' .. device, cmsgpack.pack(forgotten))
elseif kept[3] and is_again then
  forgotten = cmsgpack.unpack(kept[3])
elseif kept[3] then
  redis.call('HDEL', more, 'g:' .. device)
end
return {
  OK, had_by(states, node), state[GENERATION], known, state[RESUMED], state[SINCE_MS], epoch, first, head,
  math.min(state[ACKED], head), state[ACKED] > seen and 1 or 0, state[PARKED], kept[1] or '', kept[2] or '', forgotten,
}
