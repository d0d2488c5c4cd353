package restic

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// accessError is the error of a run that could not open or reach the repository.
type accessError struct{ err error }

func (e *accessError) Error() string { return e.err.Error() }

func (e *accessError) Unwrap() error { return e.err }

// IsUnreachable reports whether a run failed because the repository does not answer.
func IsUnreachable(err error) bool {
	var failed *accessError
	return errors.As(err, &failed) && errors.Is(failed, dataset.ErrOffline)
}

func (r *Repository) failed(err error) error {
	return fmt.Errorf("repository %s: %w", dataset.Clip(r.options.URL), err)
}

func (r *Repository) errorf(kind *dataset.Kind, format string, args ...any) error {
	return r.failed(dataset.Errorf(kind, format, args...))
}

func (r *Repository) decode(text []byte, into any) error {
	if err := json.Unmarshal(text, into); err != nil {
		return r.errorf(dataset.ErrInternal, "the output of restic is not as expected: %w", err)
	}
	return nil
}

// problem is a failure of restic. restic 0.14 has no exit statuses for these failures, so they are recognized by words
// of its messages.
type problem struct {
	words  []string // one of them is in the output
	kind   *dataset.Kind
	text   string
	detail bool // the last line of the output follows the text
	access bool // the repository cannot be opened or reached
	// applies, if not nil, must also accept the output.
	applies func(text string) bool
}

// remedy returns what to do about damaged data that a restore has found. args are the arguments of the run.
func (p problem) remedy(args []string) string {
	if p.kind == dataset.ErrCorrupt && targetOf(args) != "" {
		return " (drover repository check NAME --read-data 100 finds all damage)"
	}
	return ""
}

// problems returns the failures that are recognized. The first one that applies counts.
func problems() []problem {
	return slices.Concat(problemsOfAccess(), problemsOfData())
}

// problemsOfAccess returns the failures to reach the repository, to open it with the password, and to write to it.
func problemsOfAccess() []problem {
	return []problem{
		{
			words:  []string{"wrong password or no key found"},
			kind:   dataset.ErrForbidden,
			access: true,
			text:   "the password is wrong (correct the password file or program)",
		},
		{
			words: []string{"config file already exists", "repository master key and config already initialized"},
			kind:  dataset.ErrExists,
			text:  "a repository exists there already",
		},
		{
			words: []string{"/restic-temp-"}, kind: dataset.ErrNoSpace, detail: true,
			applies: func(text string) bool { return strings.Contains(text, "no space left on device") },
			text:    "the disk of Drover's root has no space for restic's temporary files (make space)",
		},
		{
			words:  []string{"no space left on device", "disk quota exceeded", "507 Insufficient Storage"},
			kind:   dataset.ErrNoSpace,
			text:   "it has no space left (make space, or remove old backups)",
			detail: true,
		},
		{
			words: []string{
				"connection refused", "no such host", "i/o timeout", "no route to host", "network is unreachable",
				"connection reset by peer", "unable to start the sftp session", "Connection closed", "broken pipe",
				"TLS handshake timeout", "ssh command exited", "context deadline exceeded",
				"server misbehaving", "502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout",
			},
			kind:   dataset.ErrOffline,
			access: true,
			text:   "it does not answer",
			detail: true,
		},
		{
			words:  []string{"RequestTimeTooSkewed", "the server's time is too large"},
			kind:   dataset.ErrForbidden,
			access: true,
			text:   "its clock and that of this node differ (set both)",
		},
		{
			words:  []string{"x509: certificate", "x509: cannot validate certificate"},
			kind:   dataset.ErrForbidden,
			access: true,
			text: "its certificate is not trusted (renew it, or add its authority with update-ca-certificates or, " +
				"for a URL of rest, to the credentials file)",
			detail: true,
		},
		{
			words: []string{
				"Access Denied", "AccessDenied", "permission denied", "(401)", "(403)", "InvalidAccessKeyId",
				"The Access Key Id you provided does not exist", "SignatureDoesNotMatch", "ExpiredToken",
				"The provided token has expired", "The request signature we calculated does not match",
				"Permission denied",
			},
			kind:   dataset.ErrForbidden,
			access: true,
			text:   "it refuses the access (check the credentials)",
			detail: true,
		},
		{
			words:  []string{"The specified bucket does not exist", "NoSuchBucket"},
			kind:   dataset.ErrOffline, // not ErrNotFound: restic would create the bucket with the repository
			access: true,
			text:   "the bucket does not exist (create it, or correct the URL)",
		},
	}
}

// problemsOfData returns the failures of a repository that answers.
func problemsOfData() []problem {
	return []problem{
		{
			words: []string{"no matching ID found", "multiple IDs with prefix"},
			kind:  dataset.ErrNotFound,
			text:  "it has no such backup",
		},
		{
			words: []string{failedDownload}, kind: dataset.ErrOffline, detail: true,
			text: "a part of its data cannot be read",
		},
		{
			words: []string{
				"repository contains errors", "ciphertext verification failed", "invalid data returned",
				"wrong length", "does not match id",
			},
			kind:   dataset.ErrCorrupt,
			text:   "its data are damaged",
			detail: true,
		},
		{words: opening(), applies: isAbsent, kind: dataset.ErrNotFound, text: "there is no repository", access: true},
		{words: opening(), kind: dataset.ErrOffline, text: "it cannot be opened", detail: true, access: true},
		{
			words:  []string{couldNotLoad},
			kind:   dataset.ErrOffline,
			text:   "its backups cannot be read",
			detail: true,
		},
	}
}

// couldNotLoad is in restic's messages about a backup that it cannot read, and about a list of backups that it cannot
// read.
const couldNotLoad = "could not load snapshot"

// ignored returns the lines of restic's messages about backups that it could not read. restic leaves these backups out,
// and exits with 0. A backup that does not exist is no such failure.
func ignored(text []byte) string {
	var found strings.Builder
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, couldNotLoad) ||
			strings.HasPrefix(line, "Ignoring ") && !strings.Contains(line, "no matching ID found") {
			found.WriteString(line)
		}
	}
	return found.String()
}

// opening returns the words of restic's messages about a repository that it cannot open.
func opening() []string { return []string{"unable to open config file", "config cannot be loaded"} }

// isAbsent reports whether restic failed because there is no repository. Any other failure to open the repository may
// be temporary. It must not make a caller believe that it can initialize a repository there.
func isAbsent(text string) bool {
	for line := range strings.Lines(text) {
		if !slices.ContainsFunc(opening(), func(w string) bool { return strings.Contains(line, w) }) {
			continue
		}
		return saysAbsent(line)
	}
	return false
}

// saysAbsent reports whether a line of restic's messages says that a file of the repository does not exist. A bucket or
// an access key that does not exist is another problem.
func saysAbsent(line string) bool {
	contains := func(words string) bool { return strings.Contains(line, words) }
	return slices.ContainsFunc([]string{"does not exist", "no such file or directory", "NoSuchKey"}, contains) &&
		!slices.ContainsFunc([]string{"NoSuchBucket", "specified bucket", "Access Key Id"}, contains)
}

// classify makes an error of a run that failed. The errors never contain the secrets.
func (r *Repository) classify(ctx context.Context, err error, secrets ...string) error {
	var failed *run.Error
	if !errors.As(err, &failed) {
		return r.failed(err)
	}
	text := ownMessages(strings.ReplaceAll(failed.Stderr, firstFile, r.options.URL), failed.Args)
	// The secrets are replaced before the text is cut: a part of one would not be recognized.
	show := func(text string) string {
		for _, secret := range secrets {
			if secret != "" {
				text = strings.ReplaceAll(text, secret, "[left out]")
			}
		}
		return shorten(text)
	}
	last := show(cmp.Or(failedDownloadReason(text), failedLoad(text), ignoredReason(text), lastLine(text)))
	switch {
	case errors.Is(failed.Err, run.ErrTimeout):
		return &accessError{r.errorf(dataset.ErrOffline, "it did not answer in time: %s", last)}
	case ctx.Err() != nil || failed.ExitCode < 0:
		return r.failed(fmt.Errorf("restic was ended: %w", failed.Err))
	}
	if locked := lockedBy().FindStringSubmatch(text); locked != nil {
		return r.errorf(dataset.ErrInUse, "it is locked by process %s of host %s%s (try again when that backup, check "+
			"or removal has ended; if that process was killed, its lock is removed %d minutes after it was first met, "+
			"or after a day if it is of another host)", locked[1], locked[2], lockAge(text), int(endedAge.Minutes()))
	}
	if removalRefused().MatchString(text) {
		return r.errorf(dataset.ErrForbidden, "%w", ErrAppendOnly)
	}
	if damaged := damagedPacks(text); len(damaged) > 0 {
		return r.errorf(dataset.ErrCorrupt, "its data are damaged: %s (keep the other files, and see restic's manual "+
			"on how to repair a repository)", strings.Join(damaged, ", "))
	}
	if reason := missingData(text); reason != "" {
		return r.errorf(dataset.ErrCorrupt, "its data are damaged: %s (see restic's manual on how to repair a "+
			"repository)", show(reason))
	}
	if failed.ExitCode == exitIncomplete && slices.Contains(failed.Args, "backup") {
		return r.errorf(dataset.ErrCorrupt, "a part of the files could not be read: %s",
			show(firstUnread(failed.Stderr)))
	}
	for _, p := range problems() {
		if !slices.ContainsFunc(p.words, func(w string) bool { return strings.Contains(text, w) }) ||
			p.applies != nil && !p.applies(text) {
			continue
		}
		err := r.errorf(p.kind, "%s", p.text)
		if p.detail {
			err = r.errorf(p.kind, "%s: %s%s", p.text, last, p.remedy(failed.Args))
		}
		if p.access {
			err = &accessError{err}
		}
		return err
	}
	return r.errorf(dataset.ErrInternal, "restic failed with exit status %d: %s", failed.ExitCode, last)
}

// shorten cuts the middle of a long text: an error of the network ends with its reason.
func shorten(text string) string {
	const head, tail = 60, 120
	if len(text) <= head+tail {
		return text
	}
	return strings.ToValidUTF8(text[:head], "") + "..." + strings.ToValidUTF8(text[len(text)-tail:], "")
}

// ErrAppendOnly says that the server of a repository refuses to remove backups and data. It accepts new ones.
var ErrAppendOnly = errors.New("it is append-only: it refuses to remove backups and data (remove them on its server)")

// removalRefused matches restic's message that it repeats the removal of a file other than a lock, because the server
// refused it.
func removalRefused() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^Remove\(<(?:snapshot|index|data)/[^<>]*>\) returned error, retrying after \S+: ` +
		`.*(?:403 Forbidden|Access Denied|AccessDenied|[Pp]ermission denied)`)
}

// exitIncomplete is the exit status of restic backup if a part of the files could not be read.
const exitIncomplete = 3

// firstUnread returns the first error in the output of restic backup --json that is about a file.
func firstUnread(text string) string {
	for line := range strings.Lines(text) {
		var m struct {
			Type  string          `json:"message_type"`
			Error json.RawMessage `json:"error"`
			Item  string          `json:"item"`
		}
		if json.Unmarshal([]byte(line), &m) != nil || m.Type != "error" {
			continue
		}
		if strings.ContainsFunc(m.Item, unicode.IsControl) {
			m.Item = strconv.Quote(m.Item) // an error is one line
		}
		var reason struct {
			Errno   unix.Errno `json:"Err"`     // restic 0.14
			Message string     `json:"message"` // later versions
		}
		switch err := json.Unmarshal(m.Error, &reason); {
		case err == nil && reason.Message != "":
			return m.Item + ": " + reason.Message
		case err == nil && reason.Errno != 0:
			return m.Item + ": " + reason.Errno.Error()
		}
		return m.Item
	}
	return lastLine(text)
}

// failedDownload is in restic's messages about a file with data that it cannot read. The reason follows.
const failedDownload = " failed to download: "

// failedDownloadReason returns why restic cannot read the first of such files. It returns "" if there is none.
func failedDownloadReason(text string) string {
	_, after, _ := strings.Cut(text, failedDownload)
	reason, _, _ := strings.Cut(after, "\n")
	return reason
}

// failedLoad returns the first message about a file other than a pack that restic cannot load, such as that of a
// backup. The message names the file. Later lines only say that there was an error. failedLoad returns "" if there is
// no such message.
func failedLoad(text string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, "load <") {
			return strings.TrimPrefix(strings.TrimSpace(line), "error: ")
		}
	}
	return ""
}

// ignoredReason returns the reason for the first file that a restore could not restore. The last line only has their
// number. It returns "" if there is no such file. text is what ownMessages returned.
func ignoredReason(text string) string {
	_, after, _ := strings.Cut(text, "ignoring error: ")
	reason, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(reason)
}

// missingData returns restic's first message that a part of the data is missing or cut off, or "" if there is none. The
// message names the file that cannot be restored. missingData ignores messages after which restic tries again. A pack
// that cannot be read for another reason does not count as missing or cut off: see damagedPacks.
func missingData(text string) string {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		packs := strings.Contains(line, "StreamPack: ") || strings.Contains(line, "ReadFull(<data/")
		if strings.Contains(line, ", retrying after ") || strings.Contains(line, failedDownload) {
			continue
		}
		if strings.HasSuffix(line, " not found in repository") ||
			packs && (saysAbsent(line) || strings.HasSuffix(line, "EOF")) {
			return strings.TrimPrefix(line, "ignoring ")
		}
	}
	return ""
}

// damagedPacks describes the files of a repository that restic names as missing or damaged. It names at most three. A
// file that restic could not read does not count: the server may be unreachable for a while.
func damagedPacks(text string) (list []string) {
	const most = 3
	var missing, damaged []string
	add := func(to *[]string, id string) {
		if !slices.Contains(*to, id) {
			*to = append(*to, id)
		}
	}
	pack := regexp.MustCompile(`[Pp]ack (?:ID does not match, want )?([0-9a-f]{64})(.*)`)
	for line := range strings.Lines(text) {
		m := pack.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		id, about := m[1], m[2]
		switch {
		case strings.HasPrefix(about, ": does not exist"):
			add(&missing, id)
		case strings.HasPrefix(about, failedDownload):
			if saysAbsent(about) {
				add(&missing, id)
			}
		case strings.HasPrefix(about, ": unexpected file size"), !strings.HasPrefix(about, ":"):
			add(&damaged, id)
		}
	}
	for _, id := range missing {
		list = append(list, "pack "+id+" is missing")
	}
	for _, id := range damaged {
		list = append(list, "pack "+id+" is damaged")
	}
	if more := len(list) - most; more > 0 {
		list = append(list[:most:most], fmt.Sprintf("and %d more", more))
	}
	return list
}

// lastLine returns the line of restic's output that says why it failed.
func lastLine(text string) string {
	var last string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if fatal, ok := strings.CutPrefix(line, "Fatal: "); ok {
			return fatal
		}
		if line != "" {
			last = line
		}
	}
	return last
}
