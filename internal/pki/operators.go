package pki

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/droverhq/drover/internal/durable"
)

// operatorsFile has a line for each operator to whom the authority of a folder has issued certificates: the name, and
// when the newest certificate expires. It only helps to detect a mistyped name: a certificate is valid whether or not
// the file has its name.
const operatorsFile = "operators"

// NoteOperator records when the certificate that was just issued to an operator expires. Idempotent. Safe for
// concurrent use, also by several processes. It fails with ErrInUse if another process changes the folder for longer
// than lockWait.
func NoteOperator(dir, name string, expires time.Time) (err error) {
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	until, err := Operators(dir)
	if err != nil {
		return err
	}
	until[name] = expires
	var lines strings.Builder
	for _, of := range slices.Sorted(maps.Keys(until)) {
		lines.WriteString(of + " " + formatTime(until[of]) + "\n")
	}
	return durable.Replace(filepath.Join(dir, operatorsFile), []byte(lines.String()))
}

// Operators returns when the newest certificate of each operator expires to whom the authority in a folder has issued
// one. It returns an empty map if the folder has no record, or if the caller may not read it.
func Operators(dir string) (map[string]time.Time, error) {
	until := map[string]time.Time{}
	b, err := os.ReadFile(filepath.Join(dir, operatorsFile))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return until, nil
	}
	for line := range strings.Lines(string(b)) {
		name, end, _ := strings.Cut(strings.TrimSpace(line), " ")
		// The list is only information, so a damaged line must not prevent that a certificate is issued.
		if at, err := time.Parse(time.RFC3339, end); err == nil {
			until[name] = at
		}
	}
	return until, err
}
