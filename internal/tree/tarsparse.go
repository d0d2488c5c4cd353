package tree

import (
	"encoding/binary"
	"io"
	"os"
	"strconv"

	"github.com/droverhq/drover/dataset"
)

// ranges writes the header and the map of a file with holes. It replaces the method sparse if only ReadTar will read
// the archive. The map has the number of ranges, then the offset and length of each, as little-endian numbers of 8
// bytes.
func (t *archiving) ranges(h *tarHeader, data []extent, size int64) error {
	le := binary.LittleEndian
	sparse := le.AppendUint64(nil, uint64(len(data)))
	for _, e := range data {
		sparse = le.AppendUint64(le.AppendUint64(sparse, uint64(e.off)), uint64(e.end-e.off))
		h.size += e.end - e.off
	}
	h.size += int64(len(sparse))
	h.records[paxSparse] = strconv.FormatInt(size, 10)
	if err := h.writeTo(t.w); err != nil {
		return err
	}
	_, err := t.w.Write(sparse)
	return err
}

// ranges writes the content of a file with such a map.
func (x *extracting) ranges(f *os.File, stored int64, text string) error {
	size, err := strconv.ParseInt(text, 10, 64)
	if err != nil || size < 0 {
		return dataset.Errorf(dataset.ErrCorrupt, "cannot read the size of a sparse file")
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	parts, err := x.readMap(stored, size)
	if err != nil {
		return err
	}
	for _, e := range parts {
		if err := x.writeRange(f, e.off, e.end-e.off); err != nil {
			return err
		}
	}
	return nil
}

// readMap reads the map of a sparse file. stored is the number of bytes of the entry, and size the size of the file.
func (x *extracting) readMap(stored, size int64) ([]extent, error) {
	count, err := x.readNumber()
	if err != nil {
		return nil, err
	}
	if count < 0 || count > maxRanges || stored < 8+16*count {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "the map of a sparse file has %d ranges", count)
	}
	parts := make([]extent, count)
	at, sum := int64(0), 8+16*count
	for i := range parts {
		off, err := x.readNumber()
		if err != nil {
			return nil, err
		}
		length, err := x.readNumber()
		if err != nil {
			return nil, err
		}
		if off < at || length < 0 || off > size || length > size-off {
			return nil, dataset.Errorf(dataset.ErrCorrupt,
				"the map of a sparse file has a range of %d bytes at %d of %d", length, off, size)
		}
		parts[i], at = extent{off, off + length}, off+length
		sum += length
	}
	if sum != stored {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "the map of a sparse file is for %d bytes, not for %d",
			sum, stored)
	}
	return parts, nil
}

func (x *extracting) readNumber() (int64, error) {
	var b [8]byte
	if _, err := io.ReadFull(x.tar, b[:]); err != nil {
		return 0, x.src.streamError(err)
	}
	return int64(binary.LittleEndian.Uint64(b[:])), nil
}
