package hand

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/internal/durable"
)

// recordSuffix is the suffix of the records below Root.
const recordSuffix = ".json"

// Save writes the record of a dataset below Root, durably. If record is nil, Save removes it; it is no
// error if there is none.
func (t *Tool) Save(id uuid.UUID, record []byte) error {
	path := filepath.Join(t.Root, id.String()+recordSuffix)
	if record != nil {
		return durable.Replace(path, record)
	}
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return durable.SyncDir(t.Root)
}

// Load returns the records below Root. See LoadRecords.
func (t *Tool) Load() (map[uuid.UUID][]byte, error) { return LoadRecords(t.Root) }

// LoadRecords returns the records in a folder by dataset. A folder that does not exist has none. Files
// whose names are not those of records are ignored. It fails if one of the records cannot be read.
func LoadRecords(dir string) (map[uuid.UUID][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	all := map[uuid.UUID][]byte{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), recordSuffix)
		id, err := uuid.Parse(name)
		if !ok || err != nil {
			continue
		}
		if all[id], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return all, nil
}
