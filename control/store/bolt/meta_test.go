package bolt

import "hash/fnv"

// soundMeta corrects the checksums of both meta pages.
func soundMeta(b []byte) {
	for i := range 2 {
		m := b[i*pageSize+pageHead:]
		sum := fnv.New64a()
		sum.Write(m[:metaSum])
		native.PutUint64(m[metaSum:], sum.Sum64())
	}
}
