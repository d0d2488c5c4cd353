package dataset

import (
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Repository is a place for backups outside of the pools, in the format of restic. It never contains a secret: the
// password and the credentials are read on the node that uses the repository.
type Repository struct {
	Name     string         `json:"name"`     // unique name of the repository
	URL      string         `json:"url"`      // where it is: an absolute path, or a URL of sftp, s3 or rest
	Password PasswordSource `json:"password"` // where each node reads the password of the repository
	// absolute path of the file with the credentials on each node: S3 keys in the format of the AWS command line, or a
	// line USER:PASSWORD for a URL of rest; absent: none
	CredentialsFile string `json:"credentials_file,omitempty"`
	// The largest number of bytes a second that each node sends to the repository for one backup; absent: no limit.
	MaxUpload Size `json:"max_upload,omitempty"`
	// The largest number of bytes a second that one backup reads of a volume. 0: no limit. Absent: 64 MiB.
	MaxRead *Size `json:"max_read,omitempty"`
	// Insecure allows a URL without TLS, in a private network: s3:http://…
	Insecure bool `json:"insecure,omitempty"`
	// Control stores an export of its records in the repository; absent: only on a single host.
	StoreRecords *bool     `json:"store_records,omitempty"`
	Created      time.Time `json:"created"` // when it was added
	By           string    `json:"by"`      // who added it
}

// StoresRecords reports whether control stores an export of its records in the repository. Without a setting, a single
// host does. A cluster does not, for two reasons. Its control hosts may lack restic or the password. All of its nodes
// could read the records in the repository.
func (r Repository) StoresRecords(cluster bool) bool {
	if r.StoreRecords == nil {
		return !cluster
	}
	return *r.StoreRecords
}

// DefaultMaxRead is the limit of a repository without MaxRead. It leaves most of a disk and of a CPU core to the
// processes that use the volume.
const DefaultMaxRead = 64 * MiB

// ReadLimit returns how many bytes a second one backup reads of a volume at most. Zero means no limit.
func (r Repository) ReadLimit() Size {
	if r.MaxRead == nil {
		return DefaultMaxRead
	}
	return *r.MaxRead
}

// VerifiedBackup is the last verification of a backup that said something about the backup.
type VerifiedBackup struct {
	Repository string    `json:"repository"`       // name of the repository with the backup
	Backup     string    `json:"backup"`           // ID of the backup
	At         time.Time `json:"at"`               // when the verification ended
	Check      string    `json:"check,omitempty"`  // path of the program that checked the restored volume; empty: none
	Failed     bool      `json:"failed,omitempty"` // the backup is damaged or absent, or the check program refused it
}

// SamePlace reports whether two records have the same name, URL, password and credentials.
func (r Repository) SamePlace(o Repository) bool {
	return r.Name == o.Name && r.URL == o.URL && r.Password == o.Password && r.CredentialsFile == o.CredentialsFile
}

// PasswordSource says where a node reads the password of a repository: in a file, or in the output of a program. One of
// the fields is set.
type PasswordSource struct {
	File string `json:"file,omitempty"` // absolute path of the file with the password
	Exec string `json:"exec,omitempty"` // absolute path of a program below /etc/drover that prints the password
}

const (
	passwordFile = "file:"
	passwordExec = "exec:"
	// passwordPrograms has the programs that print passwords. Only root of a host can put a program there, so a
	// record cannot make a node run any other program.
	passwordPrograms = "/etc/drover/"
)

// String returns the source in the form that ParsePasswordSource parses.
func (p PasswordSource) String() string {
	switch {
	case p.File != "":
		return passwordFile + p.File
	case p.Exec != "":
		return passwordExec + p.Exec
	}
	return ""
}

// ParsePasswordSource parses file:PATH or exec:PATH. It fails with ErrInvalid.
func ParsePasswordSource(s string) (p PasswordSource, err error) {
	if at, ok := strings.CutPrefix(s, passwordFile); ok {
		p.File = at
	} else if at, ok := strings.CutPrefix(s, passwordExec); ok {
		p.Exec = at
	} else {
		// The text is not repeated: it may be the password itself.
		return p, Errorf(ErrInvalid, "bad password source: expected file:PATH of a file with the password, or "+
			"exec:PATH of a program that prints it")
	}
	return p, p.Check()
}

// Check fails with ErrInvalid unless exactly one field is set, to a valid path.
func (p PasswordSource) Check() error {
	switch {
	case (p.File == "") == (p.Exec == ""):
		return Errorf(ErrInvalid, "bad password source: expected the path of a file or of a program")
	case p.File != "":
		return checkPath("password file", p.File)
	}
	if err := checkPath("password program", p.Exec); err != nil {
		return err
	}
	if !strings.HasPrefix(p.Exec, passwordPrograms) {
		return Errorf(ErrInvalid, "bad password program %q: it must be below %s, where root of each node allows it",
			Clip(p.Exec), passwordPrograms)
	}
	return nil
}

// checkPrograms has the programs that check restored volumes. A program elsewhere below /etc/drover is not one:
// otherwise, a request could make a node run a program that fences a node, or print a password in an error.
const checkPrograms = "/etc/drover/checks/"

// CheckCheckProgram fails with ErrInvalid unless at can be the path of a program that checks a restored volume. Only
// root of a host can put a program there.
func CheckCheckProgram(at string) error {
	if err := checkPath("check program", at); err != nil {
		return err
	}
	if !strings.HasPrefix(at, checkPrograms) {
		return Errorf(ErrInvalid, "bad check program %q: it must be below %s, where root of each node allows it",
			Clip(at), checkPrograms)
	}
	return nil
}

// CheckRepositoryName fails with ErrInvalid unless name can be a repository's name.
func CheckRepositoryName(name string) error {
	if profileRE.MatchString(name) {
		return nil
	}
	return Errorf(ErrInvalid, "bad repository name %q: expected 1 to 63 lower-case letters, digits or '-', with a "+
		"letter or digit first", Clip(name))
}

// CheckBackupID fails with ErrInvalid unless id can be the ID of a backup, as restic makes it.
func CheckBackupID(id string) error {
	if regexp.MustCompile("^[0-9a-f]{64}$").MatchString(id) {
		return nil
	}
	return Errorf(ErrInvalid, "bad ID of a backup %q: expected 64 hexadecimal digits", Clip(id))
}

// Checked returns the repository with its URL in the canonical form. It fails with ErrInvalid if a field is wrong.
func (r Repository) Checked() (Repository, error) {
	if err := CheckRepositoryName(r.Name); err != nil {
		return r, err
	}
	place, err := ParseRepositoryURL(r.URL)
	if err != nil {
		return r, err
	}
	r.URL = place
	if err := r.checkTLS(); err != nil {
		return r, err
	}
	if r.MaxUpload != 0 && r.MaxUpload < minUpload {
		return r, Errorf(ErrInvalid, "repository %s: max-upload %s is too small: expected %s a second or more, or 0 "+
			"for no limit", r.Name, r.MaxUpload, minUpload)
	}
	if n := r.ReadLimit(); n != 0 && n < minRead {
		return r, Errorf(ErrInvalid, "repository %s: max-read %s is too small: expected %s a second or more, or 0 for "+
			"no limit", r.Name, n, minRead)
	}
	if err := r.Password.Check(); err != nil || r.CredentialsFile == "" {
		return r, err
	}
	if !strings.HasPrefix(place, repositoryS3) && !strings.HasPrefix(place, repositoryREST) {
		return r, Errorf(ErrInvalid, "repository %s: a credentials file applies only to a URL of s3 or rest", r.Name)
	}
	return r, checkPath("credentials file", r.CredentialsFile)
}

// checkTLS fails with ErrInvalid if the URL has no TLS, unless the repository is marked as insecure and its host may be
// in a private network.
func (r Repository) checkTLS() error {
	kind, plain, is := strings.Cut(r.URL, ":http://")
	if !is {
		return nil
	}
	if !r.Insecure {
		return Errorf(ErrInvalid, "repository %s: %s:http:// has no TLS: everybody on the way can read the "+
			"credentials (use %[2]s:https://, or --insecure in a private network)", r.Name, kind)
	}
	host := (&url.URL{Host: strings.SplitN(plain, "/", 2)[0]}).Hostname()
	if at, err := netip.ParseAddr(host); err == nil && !at.IsPrivate() && !at.IsLoopback() && !at.IsLinkLocalUnicast() {
		return Errorf(ErrInvalid, "repository %s: %s is not in a private network (use %s:https://)", r.Name, at, kind)
	}
	return nil
}

// minUpload is the smallest limit of an upload. restic sends blobs of up to 8 MiB, and a server may end a request that
// takes much longer than a minute.
const minUpload = 64 * KiB

// minRead is the smallest limit of what a backup reads. restic is stopped for less than a second at a time, and reads a
// megabyte or two between two stops.
const minRead = 4 * MiB

// maxPlace is the maximum number of bytes of a URL or path in the record of a repository.
const maxPlace = 1024

// checkPath fails with ErrInvalid unless the path is absolute and clean. The argument what names the path in the error.
func checkPath(what, at string) error {
	if len(at) <= maxPlace && isPrintable(at) && path.IsAbs(at) && path.Clean(at) == at && at != "/" {
		return nil
	}
	return Errorf(ErrInvalid, "bad %s %q: expected an absolute path without . and ..", what, Clip(at))
}

func isPrintable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// The forms of the URL of a repository that are not a directory.
const (
	repositorySFTP = "sftp://"
	repositoryS3   = "s3:"
	repositoryREST = "rest:"
)

// hostRE matches the host of a URL, also an IPv6 address. A host that begins with '-' would be an option of ssh.
var hostRE = regexp.MustCompile(`^[a-zA-Z0-9:][a-zA-Z0-9.:_-]*$`)

// userRE matches the user of a URL. A ':' would separate the user from a password.
var userRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]*$`)

// ParseRepositoryURL checks the place of a repository and returns its canonical form, which restic accepts:
//
//	/srv/backups, file:///srv/backups        /srv/backups
//	sftp://user@host:22//srv/backups         unchanged; with a single slash, the path is relative to the user's home
//	s3:https://s3.example.com/bucket/prefix  unchanged
//	rest:https://backup.example.com/host     unchanged
//	s3:http://…, rest:http://…               unchanged; Checked accepts them only if the repository is insecure
//
// It fails with ErrInvalid for other forms, and for a URL that has a password. No error repeats a URL that may have a
// password.
func ParseRepositoryURL(s string) (string, error) {
	var err error
	switch {
	case len(s) > maxPlace || !isPrintable(s):
		return "", Errorf(ErrInvalid, "bad URL of a repository: expected at most %d bytes without control characters",
			maxPlace)
	case strings.HasPrefix(s, "/"):
		return cleanDirectory(s)
	case strings.HasPrefix(s, "file://"):
		u, err := url.Parse(s)
		if err != nil || u.Host != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || !isPrintable(u.Path) {
			return "", Errorf(ErrInvalid, "bad URL of a repository: file:// takes an absolute path "+
				"(file:///srv/backups)")
		}
		return cleanDirectory(u.Path)
	case strings.HasPrefix(s, repositorySFTP):
		err = checkRemote(s, "sftp://USER@HOST//PATH", true)
	case strings.HasPrefix(s, repositoryS3+"https://"):
		err = checkRemote(strings.TrimPrefix(s, repositoryS3), "s3:https://HOST/BUCKET/PREFIX", false)
	case strings.HasPrefix(s, repositoryS3+"http://"):
		err = checkRemote(strings.TrimPrefix(s, repositoryS3), "s3:http://HOST/BUCKET/PREFIX", false)
	case strings.HasPrefix(s, repositoryREST+"http://"):
		err = checkRemote(strings.TrimPrefix(s, repositoryREST), "rest:http://HOST/PATH", false)
	case strings.HasPrefix(s, repositoryREST+"https://"):
		err = checkRemote(strings.TrimPrefix(s, repositoryREST), "rest:https://HOST/PATH", false)
	default:
		err = Errorf(ErrInvalid, "bad URL of a repository: expected /PATH, sftp://USER@HOST//PATH, "+
			"s3:https://HOST/BUCKET/PREFIX or rest:https://HOST/PATH")
	}
	if err != nil {
		return "", err
	}
	return s, nil
}

// cleanDirectory returns the canonical form of the absolute path of a repository.
func cleanDirectory(at string) (string, error) {
	at = path.Clean(at)
	if !path.IsAbs(at) || at == "/" {
		return "", Errorf(ErrInvalid, "bad URL of a repository %q: expected the absolute path of a directory below /",
			Clip(at))
	}
	return at, nil
}

// checkRemote checks a URL with a host and a path. form describes such a URL. Only if users is set, the URL may name a
// user.
func checkRemote(s, form string, users bool) error {
	u, err := url.Parse(s)
	if err == nil && u.User != nil {
		if _, secret := u.User.Password(); secret {
			return Errorf(ErrInvalid, "bad URL of a repository: it must not contain a password (expected %s)", form)
		}
		if !users || !userRE.MatchString(u.User.Username()) {
			return Errorf(ErrInvalid, "bad URL of a repository: unexpected user (expected %s)", form)
		}
	}
	if err != nil || !hostRE.MatchString(u.Hostname()) || strings.Trim(u.Path, "/") == "" || u.RawQuery != "" ||
		u.ForceQuery || strings.Contains(s, "#") || !isPrintable(u.Path) {
		return Errorf(ErrInvalid, "bad URL of a repository: expected %s", form)
	}
	for word := range strings.SplitSeq(u.Path, "/") {
		if word == "." || word == ".." {
			return Errorf(ErrInvalid, "bad URL of a repository: its path has . or .. (expected %s)", form)
		}
	}
	return nil
}
