package projects

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/durable"
)

// Step is a step of a move. The journal has the one that began last.
type Step string

// The steps of a move in their order.
const (
	StepStop   Step = "stop"   // stop the containers
	StepCopy   Step = "copy"   // make the new volumes
	StepVerify Step = "verify" // compare copies
	StepSwitch Step = "switch" // exchange the Compose files
	StepStart  Step = "start"  // start the containers, and check that they run
	StepDone   Step = "done"   // wait for --confirm or --undo
)

// Journal is the record of a move that was neither confirmed nor undone.
type Journal struct {
	Version  int            `json:"version"`
	ID       uuid.UUID      `json:"id"`
	Project  Project        `json:"project"`
	Settings Settings       `json:"settings"`
	Begun    time.Time      `json:"begun"`
	Step     Step           `json:"step"`
	Started  bool           `json:"started,omitempty"` // containers may have used the new volumes
	Undoing  bool           `json:"undoing,omitempty"`
	Items    []Item         `json:"items"`
	Services map[string]int `json:"services"` // containers to start, by service
	Files    []Exchange     `json:"files"`

	path string
}

// journalVersion is the version of the format of a journal.
const journalVersion = 1

func journalPath(dir, project string) string { return filepath.Join(dir, ".drover-"+project+".json") }

// loadJournal reads the journal of a project. It returns nil if there is none.
func loadJournal(p Project) (*Journal, error) {
	path := journalPath(p.Dir, p.Name)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	j := &Journal{path: path}
	if err := json.Unmarshal(text, j); err != nil {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "journal %s is damaged: %w", path, err)
	}
	if j.Version != journalVersion {
		return nil, dataset.Errorf(dataset.ErrUnsupported, "journal %s has version %d, and this drover reads "+
			"version %d (use "+
			"the drover that wrote it)", path, j.Version, journalVersion)
	}
	return j, nil
}

// save writes the journal durably, for root only.
func (j *Journal) save() error {
	text, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	return durable.Replace(j.path, append(text, '\n'))
}

// remove deletes the journal.
func (j *Journal) remove() error {
	if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.SyncDir(filepath.Dir(j.path))
}
