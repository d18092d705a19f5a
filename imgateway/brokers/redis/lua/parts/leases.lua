-- Leases: ig:nodes has until when (ms) each node lives unless it renews, ig:leased when any of them last did.
-- Whoever was found to live no more has DEAD there, until it renews or is buried.
-- While this server is away nobody can: from so long a silence of all on, time stands still for their leases.
local SILENCE_MS = 10000
local DEAD = 0
-- So long after a primary took over nodes have written down there what they have.
local WRITTEN_MS = 60000
local known_nodes = {}
local silent_since, lease_now

local function look_at_leases()
  local leased_ms = tonumber(redis.call('GET', 'ig:leased') or now)
  if now - leased_ms > SILENCE_MS then
    silent_since = leased_ms
  end
  lease_now = silent_since or now
end

local function lives(node)
  if known_nodes[node] == nil then
    if not lease_now then
      look_at_leases()
    end
    local until_ms = redis.call('ZSCORE', 'ig:nodes', node)
    known_nodes[node] = until_ms and tonumber(until_ms) > lease_now or false
  end
  return known_nodes[node]
end

-- Did its node say of a session, since this primary took over, that it has it? Else it may have ended just before, at a
-- primary whose last writes are lost. (2 and 15: NODE and WRITTEN, see the part `session`.)
local function is_vouched_for(session)
  return (session[15] or primary_generation) == primary_generation
    or now - tonumber(redis.call('HGET', 'ig:primary', 'raised_ms') or 0) < WRITTEN_MS
end

-- Is it open at a node that lives?
local function is_held(session)
  return session[2] ~= '' and lives(session[2]) and is_vouched_for(session)
end
