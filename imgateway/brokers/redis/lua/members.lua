-- How many are in a room, or in the rooms of an area. ARGV: bucket, address.
return redis.call('HLEN', key(ARGV[2], 'members', ARGV[3]))
