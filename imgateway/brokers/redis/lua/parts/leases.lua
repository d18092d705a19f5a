-- Leases: ig:nodes has until when (ms) each node lives unless it renews, ig:leased when any of them last did.
-- Whoever was found to live no more has DEAD there, until it renews or is buried.
-- While this server is away nobody can: from so long a silence of all on, time stands still for their leases.
local SILENCE_MS = 10000
local DEAD = 0
local known_nodes = {}
local known_named = {}
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

-- Did its node say of a session, since this primary came back with other data, that it has it? Else it may have ended
-- just before, at a primary whose last writes are lost. A node names all that it has, and then says so: ig:named has for
-- which data each did last. (2 and 15: NODE and WRITTEN, see the part `session`.)
local function is_vouched_for(session)
  if (session[15] or primary_generation) == primary_generation then
    return true
  end
  local node = session[2]
  if known_named[node] == nil then
    known_named[node] = tonumber(redis.call('HGET', 'ig:named', node) or 0)
  end
  return known_named[node] < primary_generation
end

-- Is it open at a node that lives?
local function is_held(session)
  return session[2] ~= '' and lives(session[2]) and is_vouched_for(session)
end
