-- A login asks where its device stands in the logs that it follows, and takes these places over: an older
-- generation writes them no more. ARGV: shift_ms, user, device, generation, then for each: bucket, log.
-- Answers for each {epoch, first, head, acked, parked}, or {}: it has no place there.
-- with log
-- with cursors
local field, generation = ARGV[2] .. '\0' .. ARGV[3], tonumber(ARGV[4])
local places = {}
for i = 5, #ARGV, 2 do
  local hash = key(ARGV[i], 'c', ARGV[i + 1])
  local cursor = cursor_of(hash, field)
  if cursor then
    if cursor[GENERATION] < generation then
      cursor[GENERATION], cursor[SEEN_MS] = generation, now
      redis.call('HSET', hash, field, cmsgpack.pack(cursor))
    end
    local epoch, first, head = position(ARGV[i], ARGV[i + 1])
    places[#places + 1] = {epoch, first, head, cursor[ACKED], cursor[PARKED]}
  else
    places[#places + 1] = {}
  end
end
return places
