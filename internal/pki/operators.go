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

// operatorsFile lists the operators to whom the authority of a folder has issued certificates, one name a line. The
// list only helps to detect a mistyped name. A certificate is valid whether or not the list contains its name.
const operatorsFile = "operators"

// expiriesFile has a line for each operator of operatorsFile: the name, and when the newest certificate expires. It is
// a separate file, because earlier versions read each word of operatorsFile as a name. It lacks operators whose
// certificates an earlier version issued.
const expiriesFile = "operators-expire"

// NoteOperator adds a name to the list of operators of the authority in a folder, and records when the certificate that
// was just issued expires. Idempotent. Safe for concurrent use,
// also by several processes. It fails with ErrInUse if another process changes the folder for longer than lockWait.
func NoteOperator(dir, name string, expires time.Time) (err error) {
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	until, err := Expiries(dir)
	if err != nil {
		return err
	}
	until[name] = expires
	var lines strings.Builder
	for _, of := range slices.Sorted(maps.Keys(until)) {
		lines.WriteString(of + " " + formatTime(until[of]) + "\n")
	}
	if err := durable.Replace(filepath.Join(dir, expiriesFile), []byte(lines.String())); err != nil {
		return err
	}
	names, err := Operators(dir)
	if err != nil || slices.Contains(names, name) {
		return err
	}
	names = append(names, name)
	slices.Sort(names)
	return durable.Replace(filepath.Join(dir, operatorsFile), []byte(strings.Join(names, "\n")+"\n"))
}

// Operators returns the names of the operators to whom the authority in a folder has issued certificates, sorted. It
// returns no names if the folder has no list, or if the caller may not read it.
func Operators(dir string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, operatorsFile))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	return strings.Fields(string(b)), err
}

// Expiries returns when the newest certificate of each operator expires, as far as the authority in a folder has
// recorded it. It returns an empty map if the folder has no record, or if the caller may not read it.
func Expiries(dir string) (map[string]time.Time, error) {
	until := map[string]time.Time{}
	b, err := os.ReadFile(filepath.Join(dir, expiriesFile))
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
