package projects

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/durable"
	"github.com/droverhq/drover/internal/safefile"
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

// journalPath returns the path of the journal of a project in the folder of journals. The checksum distinguishes
// projects of one name in different folders.
func journalPath(journals, dir, project string) string {
	return filepath.Join(journals, project+"-"+sum([]byte(dir))[:12]+".json")
}

// prepareJournals makes the folder of the journals, and checks that only root can change it. The journal says which
// files root replaces, so it is not in the folder of the project, which other users and containers may write to.
func prepareJournals(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the folder of the journals (adopt-project runs as root): %w", err)
	}
	return safefile.CheckFolder(dir)
}

// loadJournal reads the journal of a project. It returns nil if there is none.
func loadJournal(path string, p Project) (*Journal, error) {
	text, err := safefile.ReadPrivate(path)
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
			"version %d (use the drover that wrote it)", path, j.Version, journalVersion)
	}
	if what := j.foreign(p); what != "" {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "journal %s is damaged: %s does not belong to project %s in %s",
			path, what, p.Name, p.Dir)
	}
	return j, nil
}

// foreign returns the first path in a journal that is not one of its project, or "". Only files that the project's
// Compose files have as neighbours are replaced or removed.
func (j *Journal) foreign(p Project) string {
	if j.Project.Name != p.Name || j.Project.Dir != p.Dir {
		return fmt.Sprintf("%q in %q", dataset.Clip(j.Project.Name), dataset.Clip(j.Project.Dir))
	}
	for _, x := range j.Files {
		old, isOld := strings.CutPrefix(x.Old, x.Path+oldSuffix)
		switch {
		case !filepath.IsAbs(x.Path) || filepath.Clean(x.Path) != x.Path || !slices.Contains(j.Project.Files, x.Path):
			return dataset.Clip(x.Path)
		case x.New != x.Path+newSuffix:
			return dataset.Clip(x.New)
		case !isOld || strings.Trim(old, "-0123456789") != "":
			return dataset.Clip(x.Old)
		}
	}
	return ""
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
