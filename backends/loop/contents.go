package loop

import (
	"strconv"
	"strings"

	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/internal/safefile"
)

// templatesDir is the directory of a pool with the formatted images.
const templatesDir = "templates"

// partFile is the record of the item part.
const partFile = partItem + recordSuffix

// tmpSuffix ends the names of unfinished files outside of a dataset's directory.
const tmpSuffix = ".tmp"

// contents lists the directory of a dataset.
type contents struct {
	Items   []string // head, next, part, and snapshots by their UUID
	Records []string // names of files
	Tmp     []string // names of unfinished files
	Foreign []string // names that Drover does not use, quoted
}

// contentsOf reads the directory of a dataset.
func contentsOf(l layout, dir safefile.Dir) (contents, error) {
	entries, err := dir.Entries(".")
	if err != nil {
		return contents{}, err
	}
	var c contents
	for _, e := range entries {
		name := e.Name()
		item, isItem := l.Item(name)
		owner, isRecord := strings.CutSuffix(name, recordSuffix)
		_, isID := shelf.ParseID(owner)
		switch {
		case isItem:
			c.Items = append(c.Items, item)
		case isRecord && (isID || name == shelf.RecordFile || name == partFile):
			c.Records = append(c.Records, name)
		case strings.HasPrefix(name, shelf.Temp) && e.Type().IsRegular():
			c.Tmp = append(c.Tmp, name)
		default:
			c.Foreign = append(c.Foreign, strconv.Quote(name))
		}
	}
	return c, nil
}
