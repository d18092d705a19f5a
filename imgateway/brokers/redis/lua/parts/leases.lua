-- Leases: ig:nodes has until when (ms) each node lives unless it renews, ig:leased when any of them last did.
-- While this server is away nobody can: from so long a silence of all on, time stands still for their leases.
local SILENCE_MS = 10000
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
