package bolt

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// A record is the value of a key in the file:
//
//	0      1       5        13         14
//	form   CRC-32C  index    length of  session, value
//	(1)             (big)    session
//
// The checksum covers the key and everything after the checksum. It is needed because bbolt has no checksums on its
// data pages, and a flipped bit must not turn one dataset into another.
const (
	recordForm = 1
	recordHead = 14
	maxSession = 64
)

type record struct {
	index   uint64
	session string
	value   []byte // shares the memory of the parsed bytes
}

// newRecord encodes a record. seal adds the index and the checksum.
func newRecord(session string, value []byte) []byte {
	r := make([]byte, recordHead+len(session)+len(value))
	r[0], r[13] = recordForm, byte(len(session))
	copy(r[recordHead:], session)
	copy(r[recordHead+len(session):], value)
	return r
}

func seal(r []byte, key string, index uint64) {
	binary.BigEndian.PutUint64(r[5:], index)
	binary.BigEndian.PutUint32(r[1:], checksum(key, r))
}

func checksum(key string, r []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum([]byte(key), table), table, r[5:])
}

// parseRecord reads a record. It fails with ErrCorrupt if the checksum is wrong.
func parseRecord(key string, r []byte) (record, error) {
	if len(r) < recordHead || r[0] != recordForm || recordHead+int(r[13]) > len(r) ||
		binary.BigEndian.Uint32(r[1:]) != checksum(key, r) {
		return record{}, dataset.Errorf(dataset.ErrCorrupt,
			"store: value of %q is damaged: write it again, or stop drover and run drover store recover "+
				"--from-pools", key)
	}
	end := recordHead + int(r[13])
	return record{binary.BigEndian.Uint64(r[5:]), string(r[recordHead:end]), r[end:]}, nil
}

func (r record) entry(key string) store.Entry {
	value := make([]byte, len(r.value))
	copy(value, r.value)
	return store.Entry{Key: key, Value: value, Index: r.index}
}
