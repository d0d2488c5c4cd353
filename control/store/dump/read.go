package dump

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"math"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// maxLine is more than the longest key and value take.
const maxLine = 1 << 20

// reader reads a dump line by line, and checks that it is what Save writes.
type reader struct {
	lines *bufio.Reader
	hash  hash.Hash
	n     int // number of the line
	sum   Summary
	last  string // the last key
	named uuid.UUID
}

// read calls fn with each entry, checks the whole dump, and returns its summary. It fails with the error of fn, with
// dataset.ErrInvalid if the file is not a dump, with dataset.ErrUnsupported for a dump of a later version of Drover,
// and with dataset.ErrCorrupt if the dump is damaged or truncated.
func read(r io.Reader, fn func(store.Entry) error) (Summary, error) {
	d := &reader{lines: bufio.NewReaderSize(r, maxLine), hash: sha256.New()}
	if err := d.head(); err != nil {
		return Summary{}, err
	}
	for {
		b, err := d.line()
		if err != nil {
			return Summary{}, err
		}
		var l struct {
			line
			count
		}
		if err := json.Unmarshal(b, &l); err != nil {
			return Summary{}, d.badLine("is not valid JSON of an export: %w", err)
		}
		if l.Entries != nil {
			d.hash.Write(b)
			return d.sum, d.end(l.count)
		}
		e, err := d.entry(l.line)
		if err != nil {
			return Summary{}, err
		}
		d.hash.Write(b)
		d.sum.add(e.Key)
		if err := fn(e); err != nil {
			return Summary{}, err
		}
	}
}

func (d *reader) badLine(format string, args ...any) error {
	return dataset.Errorf(dataset.ErrCorrupt, "line %d "+format, append([]any{d.n}, args...)...)
}

// line returns the next line with its newline.
func (d *reader) line() ([]byte, error) {
	b, err := d.lines.ReadSlice('\n')
	d.n++
	switch {
	case errors.Is(err, io.EOF):
		return nil, d.badLine("is missing: the export was cut off (make it again)")
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, d.badLine("is longer than any line of an export")
	}
	return b, err
}

func (d *reader) head() error {
	var h head
	b, err := d.line()
	if err != nil && dataset.KindOf(err) != dataset.ErrCorrupt {
		return err
	}
	if err != nil || json.Unmarshal(b, &h) != nil || h.Format != format {
		return dataset.Errorf(dataset.ErrInvalid,
			"it is not an export of a store (drover store export makes one; to restore a backup, see "+
				"docs/operations.md)")
	}
	if h.Version != version {
		return dataset.Errorf(dataset.ErrUnsupported,
			"it is of version %d, this drover reads %d: another version of drover made it", h.Version, version)
	}
	d.hash.Write(b)
	d.sum.From, d.sum.Cluster = h.From, h.Cluster
	return nil
}

func (d *reader) entry(l line) (e store.Entry, err error) {
	e = store.Entry{Key: l.Key, Value: l.Base64}
	if l.Value != nil {
		e.Value = bytes.Clone(l.Value)
	}
	if err := store.CheckKey(e.Key); err != nil {
		return e, d.badLine("has a %w", err)
	}
	switch {
	case e.Key <= d.last:
		return e, d.badLine("has key %s after %s", e.Key, d.last)
	case strings.HasPrefix(e.Key, store.LivePrefix), e.Key == markKey:
		return e, d.badLine("has key %s, which is no record", e.Key)
	case len(e.Value) > store.MaxValue:
		return e, d.badLine("has a value of %d bytes (%d at most)", len(e.Value), store.MaxValue)
	}
	d.last = e.Key
	if e.Key == clusterKey {
		if d.named, err = identity(e.Value); err != nil {
			return e, d.badLine("is damaged: %w", err)
		}
	}
	return e, nil
}

// end reads the last line, and compares the last two lines with everything that was read.
func (d *reader) end(c count) error {
	d.sum.Index, d.sum.Sum = c.Index, hex.EncodeToString(d.hash.Sum(nil))
	b, err := d.line()
	if err != nil {
		return err
	}
	var t tail
	switch err := json.Unmarshal(b, &t); {
	case err != nil || t.Sum != d.sum.Sum:
		return d.badLine("does not have the checksum of the lines before it, %.12s…: the file was changed or damaged",
			d.sum.Sum)
	case *c.Entries != d.sum.Entries:
		return d.badLine("ends an export of %d entries, but there are %d", *c.Entries, d.sum.Entries)
	case d.named == uuid.Nil || d.named != d.sum.Cluster:
		return d.badLine("ends an export of cluster %s that lacks the identity of that cluster", d.sum.Cluster)
	case c.Index == 0 || c.Index >= math.MaxInt64:
		return d.badLine("ends an export with index %d", c.Index)
	}
	if _, err := d.lines.Peek(1); !errors.Is(err, io.EOF) {
		return d.badLine("should be the last, but more lines follow")
	}
	return nil
}
