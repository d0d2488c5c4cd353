package zfs

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// zfs send(8) writes records (dmu_replay_record) of 312 bytes in the byte order of its host. Some are followed by a
// payload. Integers have 8 bytes, unless stated otherwise.
const (
	recordSize = 312
	beginMagic = 0x2f5bacbac

	// Offsets in a record. The first line is for every record, the second for the first record, and the third for most
	// other records.
	atKind, atPayload                                            = 0, 4 // integers of 4 bytes
	atMagic, atVersion, atObjectSet, atFlags, atGUID, atFromGUID = 8, 16, 32, 36, 40, 48
	atObject, atOffset                                           = 8, 16 // in most other records
)

// Kinds of records.
const (
	drrBegin = iota
	drrObject
	drrFreeObjects
	drrWrite
	drrFree
	drrEnd
	_ // DRR_WRITE_BYREF: a write whose data is elsewhere
	drrSpill
	drrEmbedded
	drrRange
)

const (
	hdrMask, hdrPlain = 3, 1 // kind of stream, in the version field; plain: one filesystem without properties
	featureShift      = 2
	objectSetZFS      = 2
	flagClone         = 1 // the base is a snapshot of another filesystem
	maxPiece          = 64 << 20
)

// The features that a stream may have. A stream is rejected if it refers to data elsewhere, if it is only a part of a
// stream, or if it contains properties.
const (
	featureSpill      = 1 << 2
	featureEmbedded   = 1 << 16
	featureLZ4        = 1 << 17
	featureLarge      = 1 << 19 // large blocks
	featureCompressed = 1 << 22
	featureDnodes     = 1 << 23 // large dnodes
	featureRaw        = 1 << 24
	featureZSTD       = 1 << 25
	featureSwitch     = 1 << 27 // switch to large blocks
	featuresSince     = 7 << 28 // since 2.1: another checksum, long names, large directories

	anyFeatures = featureSpill | featureLarge | featureDnodes | featureSwitch | featuresSince
	rawFeatures = anyFeatures | featureRaw | featureEmbedded | featureLZ4 | featureCompressed | featureZSTD
)

// sentStream describes the stream of zfs send.
type sentStream struct {
	From  uint64 // GUID of the base; 0 if the stream is complete
	Clone bool   // the base is a snapshot of another filesystem
	Raw   bool   // encrypted
	backends.Change
}

// errDiffers is returned by Read if it stops at the first difference.
var errDiffers = errors.New("they differ")

// badStream returns an error of kind dataset.ErrCorrupt for a stream.
func badStream(format string, args ...any) error {
	return dataset.Errorf(dataset.ErrCorrupt, "bad stream: "+format, args...)
}

// readStream reads a stream to its end. It checks that the stream is one snapshot of one filesystem, that it refers to
// nothing else, and that nothing follows it. It does not verify checksums, because zfs receive does. If first is true,
// Read stops with ErrDiffers at the first record of a difference.
func readStream(from io.Reader, first bool) (s sentStream, err error) {
	in := &records{r: bufio.NewReaderSize(from, 256<<10)}
	if err := in.next(); err != nil {
		return s, err
	}
	if err := in.begin(&s); err != nil {
		return s, err
	}
	for {
		if err := in.next(); err != nil {
			return s, err
		}
		if in.kind() == drrEnd {
			break
		}
		if first {
			return s, errDiffers
		}
		if err := in.addRecord(&s); err != nil {
			return s, err
		}
	}
	if _, err := in.r.ReadByte(); err == nil {
		return s, badStream("it continues after its end")
	} else if !errors.Is(err, io.EOF) {
		return s, err
	}
	return s, nil
}

// records reads the records of a stream one after the other.
type records struct {
	r   *bufio.Reader
	buf [recordSize]byte

	object, end uint64 // the object of the last write, and where the write ended
}

// next reads the next record into buf, without its payload.
func (r *records) next() error {
	if _, err := io.ReadFull(r.r, r.buf[:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return badStream("it ended early")
		}
		return err
	}
	return nil
}

func (r *records) kind() uint32 { return r.u32(atKind) }

func (r *records) u32(at int) uint32 { return binary.NativeEndian.Uint32(r.buf[at:]) }

func (r *records) u64(at int) uint64 { return binary.NativeEndian.Uint64(r.buf[at:]) }

// skip skips a payload of n bytes.
func (r *records) skip(n uint64) error {
	if n > maxPiece {
		return badStream("a record with %d bytes", n)
	}
	if _, err := r.r.Discard(int(n)); err != nil {
		if errors.Is(err, io.EOF) {
			return badStream("it ended early")
		}
		return err
	}
	return nil
}

// begin checks the first record, describes the stream in s, and skips the payload.
func (r *records) begin(s *sentStream) error {
	features := r.u64(atVersion) >> featureShift
	s.From, s.Clone, s.Raw = r.u64(atFromGUID), r.u32(atFlags)&flagClone != 0, features&featureRaw != 0
	allowed := uint64(anyFeatures)
	if s.Raw {
		allowed = rawFeatures
	}
	switch {
	case r.kind() != drrBegin || r.u64(atMagic) != beginMagic:
		return badStream("not written by zfs, or written on a host of another byte order")
	case r.u64(atVersion)&hdrMask != hdrPlain:
		return badStream("it has several snapshots or filesystems, or their properties")
	case features&^allowed != 0:
		return badStream("it has features that drover does not use (%#x)", features&^allowed)
	case r.u32(atObjectSet) != objectSetZFS:
		return badStream("it is not the stream of a filesystem")
	case s.Clone && s.From == 0:
		return badStream("it is a clone without an origin")
	case r.u32(atPayload) > 0 && !s.Raw:
		return badStream("it contains more than the stream itself")
	}
	return r.skip(uint64(r.u32(atPayload)))
}

// addRecord processes the current record: it counts the change and skips the payload. It is called for all records
// except the first and the last one. The numbers are offsets of fields in the record of each kind. The payload of an
// object and of an embedded write is padded to a multiple of eight bytes.
func (r *records) addRecord(s *sentStream) error {
	switch r.kind() {
	case drrObject:
		if raw := uint64(r.u32(36)); raw != 0 { // drr_raw_bonuslen
			return r.skip(raw)
		}
		return r.skip((uint64(r.u32(28)) + 7) &^ 7) // drr_bonuslen
	case drrFreeObjects, drrRange:
		return nil
	case drrWrite:
		from, n := r.u64(atOffset+8), r.u64(atOffset+16) // drr_offset, drr_logical_size
		s.count(r, from, n)
		if compressed := r.buf[50] != 0; compressed { // drr_compressiontype
			n = r.u64(96) // drr_compressed_size
		}
		return r.skip(n)
	case drrFree:
		if n := r.u64(atOffset + 8); n <= math.MaxInt64 { // drr_length
			s.Zeroed += int64(n)
		}
		return nil
	case drrSpill:
		n := r.u64(atOffset)                          // drr_length: a spill has no offset
		if compressed := r.u64(40); compressed != 0 { // drr_compressed_size
			n = compressed
		}
		return r.skip(n)
	case drrEmbedded:
		s.count(r, r.u64(atOffset), r.u64(24))      // drr_offset, drr_length
		return r.skip((uint64(r.u32(52)) + 7) &^ 7) // drr_psize
	}
	return badStream("a record of kind %d", r.kind())
}

// count adds a write to the change: its bytes, and a range if it does not continue the last write.
func (s *sentStream) count(r *records, from, n uint64) {
	if object := r.u64(atObject); object != r.object || from != r.end || s.Ranges == 0 {
		r.object = object
		s.Ranges++
	}
	r.end = from + n
	s.Bytes += int64(min(n, maxPiece))
}
