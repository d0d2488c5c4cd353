package formats

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// types has the type of the values below each prefix of control's keys.
var types = map[string]func() any{
	record.NamesPrefix:         func() any { return &record.Claim{} },
	record.SnapshotNamesPrefix: func() any { return &record.Claim{} },
	record.HomesPrefix:         func() any { return &record.Claim{} },
	record.ClusterKey:          func() any { return &record.Claim{} },
	record.FormatKey:           func() any { return &map[string]int{} },
	record.UUIDPrefix:          func() any { return &record.UUIDPointer{} },
	record.DatasetsPrefix:      func() any { return &dataset.Dataset{} },
	record.SnapshotsPrefix:     func() any { return &dataset.Snapshot{} },
	record.LeasesPrefix:        func() any { return &dataset.Lease{} },
	record.NodesPrefix:         func() any { return &dataset.Node{} },
	record.FactsPrefix:         func() any { return &dataset.Facts{} },
	record.PoolsPrefix:         func() any { return &dataset.Pool{} },
	record.OperationsPrefix:    func() any { return &record.EndedOperation{} },
	record.TrashPrefix:         func() any { return &record.TrashEntry{} },
	"generations/":             func() any { return &record.Generation{} },
}

// Every key of the records has a field in the types of this version. A key without a field would be lost when the record
// is written again.
func TestB16KeysOfRecords(t *testing.T) {
	openFixture(t)
	f, err := os.Open(filepath.Join(root, "export.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := map[string]bool{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Key   string          `json:"key"`
			Value json.RawMessage `json:"value"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line.Key == "" {
			continue // the first or last line of the export
		}
		prefix, value := "", any(nil)
		for p, make := range types {
			if strings.HasPrefix(line.Key, p) {
				prefix, value = p, make()
			}
		}
		if value == nil {
			t.Errorf("no type for the value of %s", line.Key)
			continue
		}
		seen[prefix] = true
		decodeStrictly(t, line.Key, line.Value, value)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	for p := range types {
		if !seen[p] {
			t.Errorf("the fixture has no record below %s", p)
		}
	}
}

// The same for the records of datasets in the pool.
func TestB16KeysInPool(t *testing.T) {
	openFixture(t)
	files, err := filepath.Glob(mounted + "/images/datasets/*/record.json")
	if err != nil || len(files) < 2 {
		t.Errorf("there are %d records (%v), want at least 2", len(files), err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		decodeStrictly(t, file, b, &dataset.Dataset{})
	}
}

func decodeStrictly(t *testing.T, name string, b []byte, v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}
