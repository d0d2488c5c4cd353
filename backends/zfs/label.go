package zfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/droverhq/drover/internal/safefile"
)

// zpool(8) writes a label at the start of each partition or file of a zpool. On a whole disk, zpool(8) makes
// partitions, and the label is at the start of the first one, which begins at partitionAt. The description of the zpool
// is in the label, from labelAt on.
const (
	labelAt     = 16 << 10
	labelSize   = 112 << 10
	partitionAt = 1 << 20
)

// The format of an nvlist in XDR (libnvpair): a header, and then pairs, each with its length.
const (
	nvHeader   = 12 // encoding, byte order, version, flags
	nvEncoding = 1  // XDR
	nvString   = 9
)

// nameOnDisk returns the name of the zpool in the label of a device, or "" if it has none. It changes nothing.
func nameOnDisk(path string) (string, error) {
	f, err := safefile.OpenDisk(path)
	if err != nil {
		return "", fmt.Errorf("read device: %w", err)
	}
	defer f.Close()
	buf := make([]byte, labelSize)
	for _, at := range []int64{labelAt, partitionAt + labelAt} {
		n, err := f.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read device %s: %w", path, err)
		}
		if name := nvName(buf[:n]); name != "" {
			return name, nil
		}
	}
	return "", nil
}

// nvName returns the string "name" of the outermost list, or "" if the bytes are not a list.
func nvName(b []byte) string {
	if len(b) < nvHeader || b[0] != nvEncoding || !bytes.Equal(b[2:4], []byte{0, 0}) {
		return ""
	}
	for b = b[nvHeader:]; len(b) >= 8; {
		size := int(binary.BigEndian.Uint32(b))
		if size < 8 || size > len(b) {
			return ""
		}
		pair := b[8:size]
		name, rest := nvText(pair)
		if name == "name" && len(rest) > 8 && binary.BigEndian.Uint32(rest) == nvString {
			text, _ := nvText(rest[8:])
			return text
		}
		b = b[size:]
	}
	return ""
}

// nvText reads a string: its length, its bytes, and zeros up to a multiple of four.
func nvText(b []byte) (text string, rest []byte) {
	if len(b) < 4 {
		return "", nil
	}
	n := int(binary.BigEndian.Uint32(b))
	padded := (n + 3) &^ 3
	if n < 0 || padded < n || padded > len(b)-4 {
		return "", nil
	}
	return string(b[4 : 4+n]), b[4+padded:]
}
