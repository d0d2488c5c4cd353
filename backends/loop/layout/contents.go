package layout

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/loop/folder"
)

// The directories of a pool.
const (
	Incoming  = "incoming"  // datasets that are not committed
	Datasets  = "datasets"  // committed datasets
	Copies    = "copies"    // copies of datasets whose home is another pool
	Deleting  = "deleting"  // datasets whose deletion has begun
	Templates = "templates" // formatted images
)

// Directories returns the names of the directories that every pool has.
func Directories() []string { return []string{Incoming, Datasets, Copies, Deleting, Templates} }

// IdentityFile is the record of the pool itself.
const IdentityFile = "pool.json"

// PartFile is the record of the item part.
const PartFile = Part + RecordSuffix

// TmpSuffix ends the names of unfinished files outside of a dataset's directory.
const TmpSuffix = ".tmp"

// Contents lists the directory of a dataset.
type Contents struct {
	Items   []string // head, next, part, and snapshots by their UUID
	Records []string // names of files
	Tmp     []string // names of unfinished files
	Foreign []string // names that Drover does not use, quoted
}

// ContentsOf reads the directory of a dataset.
func ContentsOf(l Layout, dir folder.Dir) (Contents, error) {
	entries, err := dir.Entries(".")
	if err != nil {
		return Contents{}, err
	}
	var c Contents
	for _, e := range entries {
		name := e.Name()
		item, isItem := l.Item(name)
		owner, isRecord := strings.CutSuffix(name, RecordSuffix)
		_, err := ParseID(owner)
		switch {
		case isItem:
			c.Items = append(c.Items, item)
		case isRecord && (err == nil || name == RecordFile || name == PartFile):
			c.Records = append(c.Records, name)
		case strings.HasPrefix(name, TmpPrefix) && e.Type().IsRegular():
			c.Tmp = append(c.Tmp, name)
		default:
			c.Foreign = append(c.Foreign, strconv.Quote(name))
		}
	}
	return c, nil
}

// ParseID reads a UUID in the spelling that Drover uses for names.
func ParseID(s string) (uuid.UUID, error) {
	id, err := uuid.Parse(s)
	if err == nil && id.String() != s {
		err = fmt.Errorf("%q is not a UUID in the format that Drover writes", s)
	}
	return id, err
}

// DeletedID returns the dataset that a name in the directory of deletions belongs to.
func DeletedID(name string) (uuid.UUID, error) {
	id, n, numbered := strings.Cut(name, ".")
	if numbered {
		if i, err := strconv.Atoi(n); err != nil || i < 1 || strconv.Itoa(i) != n {
			return uuid.Nil, fmt.Errorf("%q is not a name that Drover uses", name)
		}
	}
	return ParseID(id)
}
