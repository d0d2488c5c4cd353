package bolt

import "hash/fnv"

// soundMeta gives both meta pages the checksum of what they say.
func soundMeta(b []byte) {
	for i := range 2 {
		m := b[i*pageSize+pageHead:]
		sum := fnv.New64a()
		sum.Write(m[:metaSum])
		native.PutUint64(m[metaSum:], sum.Sum64())
	}
}
