package bolt

import (
	"encoding/binary"
	"hash/fnv"
)

// soundMeta corrects the checksums of both meta pages: 64 bits after a page head of 16 bytes and a meta of 56 bytes
// (go.etcd.io/bbolt, internal/common: meta.go).
func soundMeta(b []byte) {
	for i := range 2 {
		m := b[i*pageSize+16:]
		sum := fnv.New64a()
		sum.Write(m[:56])
		binary.NativeEndian.PutUint64(m[56:], sum.Sum64())
	}
}
