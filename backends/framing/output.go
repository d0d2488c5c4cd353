// Package framing is the common part of the streams in which backends send snapshots. Packages backends/spool,
// backends/loop/stream and backends/loop/transfer use it. An [Output] writes a stream and an [Input] reads one. They
// have no state besides their position in the stream, and each belongs to one goroutine.
//
// A stream is a magic, then numbered frames, and at its end the SHA-256 of everything before. A stream can be resumed
// at the end of each frame.
//
// The formats differ in what their frames contain, and so in the headers of the frames: see backends/spool and
// backends/loop/stream. In both, byte 0 of a header is the kind of the frame, and bytes 4 to 7 are its number. All
// numbers are little-endian, and all checksums of frames are CRC-32C.
package framing

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"hash/crc32"
	"io"
)

// Kinds of frames that every format has.
const (
	Start = 'H' // the first frame, whose payload describes the stream as JSON
	Data  = 'D'
	End   = 'E' // the last frame, whose payload is the SHA-256 of the stream before it
)

// Output writes the frames of a stream. It is not safe for concurrent use.
type Output struct {
	w       *bufio.Writer
	skipper *skipWriter
	sum     hash.Hash
	next    uint32
}

// NewOutput begins a stream with its magic. from is the number of bytes to skip at the start of the stream: they are
// not written to w. largest is the size of the largest frame.
func NewOutput(w io.Writer, magic string, from int64, largest int) (*Output, error) {
	o := &Output{skipper: &skipWriter{w: w, skip: from}, sum: sha256.New()}
	o.w = bufio.NewWriterSize(io.MultiWriter(o.skipper, o.sum), largest)
	_, err := o.w.WriteString(magic)
	return o, err
}

// Number puts the kind of the next frame and its number into the header of the frame.
func (o *Output) Number(header []byte, kind byte) {
	header[0] = kind
	binary.LittleEndian.PutUint32(header[4:], o.next)
	o.next++
}

// Write writes a frame.
func (o *Output) Write(header, payload []byte) error {
	if _, err := o.w.Write(header); err != nil {
		return err
	}
	_, err := o.w.Write(payload)
	return err
}

// Close ends the stream. frame writes the last frame, whose payload is sum.
func (o *Output) Close(frame func(sum []byte) error) error {
	if err := o.w.Flush(); err != nil {
		return err
	}
	if err := frame(o.sum.Sum(nil)); err != nil {
		return err
	}
	return o.w.Flush()
}

// Total returns the length of the closed stream in bytes. It includes the bytes that were not written.
func (o *Output) Total() int64 { return o.skipper.total }

// Checksum returns the SHA-256 of the closed stream in hexadecimal digits.
func (o *Output) Checksum() string { return hex.EncodeToString(o.sum.Sum(nil)) }

// CRC returns the CRC-32C of parts that follow each other.
func CRC(parts ...[]byte) (sum uint32) {
	table := crc32.MakeTable(crc32.Castagnoli)
	for _, part := range parts {
		sum = crc32.Update(sum, table, part)
	}
	return sum
}

// skipWriter passes on everything but the first bytes, for a receiver that already has the beginning of the stream.
type skipWriter struct {
	w     io.Writer
	skip  int64 // bytes
	total int64 // bytes that were written to it, including the skipped ones
}

// Write implements io.Writer.
func (r *skipWriter) Write(b []byte) (int, error) {
	skip := min(max(r.skip-r.total, 0), int64(len(b)))
	r.total += int64(len(b))
	if skip == int64(len(b)) {
		return len(b), nil
	}
	n, err := r.w.Write(b[skip:])
	return int(skip) + n, err
}
