package layout

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/dataset"
)

// TestFormatsSeesReplacedRecord: a record that was known and is replaced by one of a later format is refused, and one
// that is replaced by a record of a known format is accepted again.
func TestFormatsSeesReplacedRecord(t *testing.T) {
	path := t.TempDir()
	dir, err := folder.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var formats Formats
	id := uuid.New()
	replace := func(text string) {
		t.Helper()
		next := filepath.Join(path, "next")
		if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, filepath.Join(path, RecordFile)); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		record string
		want   error
	}{{"", nil}, {`{}`, nil}, {`{}`, nil}, {`{"format":2}`, dataset.ErrUnsupported}, {`{"format":2}`, dataset.ErrUnsupported}, {`{}`, nil}} {
		if step.record != "" {
			replace(step.record)
		}
		if step.record == `{}` {
			formats.Wrote(dir, id)
		}
		for range 2 {
			if err := formats.Check(dir, id); !errors.Is(err, step.want) {
				t.Errorf("record %q: %v, want %v", step.record, err, step.want)
			}
		}
	}
}
