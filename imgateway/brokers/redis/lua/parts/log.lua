-- A durable log: h (what is known of it), list l (its entries), set w (the nodes that watch it).
--
-- Entry: seq 8 | at_s 4 | expires_ms 8 | bytes 4 | kind 1 | only_device 1+n | except_device 1+n | rest.
-- kind 0: the rest is the message; 1: it is the name of a body that several logs share, `bytes` long.
local ENTRY = '>I8I4I8I4B'
-- Further than a log can have got unseen by the replica that takes over.
local JUMP = 1048576
-- So long after a failover somebody may miss what a log had that is not there at all.
local MISSED_MS = 604800000

local store = redis.call('HMGET', 'ig:primary', 'epoch', 'base', 'raised_ms')
local store_epoch = tonumber(store[1] or 0)
local base_generation = tonumber(store[2] or primary_generation)
local raised_ms = tonumber(store[3] or 0)

-- What h has, in this order; then the jumps of the head, as pairs of old and new.
local KNOWN = '>I8I8I8I8I8I8I8I4I4'

-- What is known of a log, as of this run of the primary: after a failover its head jumps, for what the old
-- primary gave seqs to may be lost, and clients have seen them. `raised` says that this is not written yet.
local function load_log(bucket, text)
  local prefix = 'ig:{' .. bucket .. '}:'
  local h = prefix .. 'h:' .. text
  local head, first, bytes, n, lost, epoch, due, brief, count = 0, 1, 0, base_generation, 0, 0, 0, 0, 0
  local jumps, next_byte = {}, nil
  local known = redis.call('GET', h)
  if known then
    head, first, bytes, n, lost, epoch, due, brief, count, next_byte = struct.unpack(KNOWN, known)
    while next_byte <= #known do
      jumps[#jumps + 1], next_byte = struct.unpack('>I8', known, next_byte)
    end
  end
  local log = {  -- all that it will ever have: a table that grows is slow
    bucket = bucket, text = text, prefix = prefix, h = h, l = prefix .. 'l:' .. text,
    head = head,
    first = first,   -- the oldest entry's; head + 1 if there is none
    count = count, bytes = bytes,
    n = n,           -- the generation of the primary that wrote last
    lost = lost,     -- up to here something went that was not past its own time
    epoch = epoch == 0 and store_epoch or epoch,
    due = due,       -- nothing has to go before (ms); 0: there is nothing
    brief = brief,   -- entries with a time of their own to expire
    jumps = jumps,   -- old and new head of each
    raised = false, changed = false, later = false,
    before = head, pushed = false, numbers = false, bodies = false,
  }
  if log.n < primary_generation then
    local old, new = log.head, log.head + (primary_generation - log.n) * JUMP
    if old > 0 or now - raised_ms < MISSED_MS then
      jumps[#jumps + 1] = old
      jumps[#jumps + 1] = new
    end
    if log.first > old then
      log.first = new + 1
    end
    log.head, log.n, log.raised = new, primary_generation, true
  end
  return log
end

local function save_log(log)
  local known = struct.pack(KNOWN, log.head, log.first, log.bytes, log.n, log.lost,
    log.epoch == store_epoch and 0 or log.epoch, log.due, log.brief, log.count)
  for _, seq in ipairs(log.jumps) do
    known = known .. struct.pack('>I8', seq)
  end
  redis.call('SET', log.h, known)
end

local function position(bucket, text)
  local log = load_log(bucket, text)
  return log.epoch, log.first, log.head
end
