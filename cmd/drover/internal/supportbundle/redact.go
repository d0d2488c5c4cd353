package supportbundle

import (
	"bytes"
	"regexp"
	"strings"
)

// redacted replaces a secret.
const redacted = "[redacted]"

// secretWords are the words in the name of a setting, label, field or variable whose value is a secret.
var secretWords = []string{
	"passw", "passphrase", "pwd", "secret", "token", "credential", "authorization", "bearer", "cookie", "signature",
	"api-key", "api_key", "api.key", "apikey",
	"access-key", "access_key", "access.key", "accesskey",
	"account-key", "account_key", "account.key", "accountkey",
	"encryption-key", "encryption_key", "encryption.key", "encryptionkey",
	"master-key", "master_key", "master.key", "masterkey",
	"private-key", "private_key", "private.key", "privatekey",
	"shared-key", "shared_key", "shared.key", "sharedkey",
}

// secretWord matches a word of secretWords, and secretName matches a name that contains such a word.
var (
	secretWord = strings.ReplaceAll(strings.Join(secretWords, "|"), ".", `\.`)
	secretName = `[\w.\-/]*(?:` + secretWord + `)[\w.\-/]*`
)

// tokenMarks are the beginnings of tokens that knownToken matches.
var tokenMarks = []string{
	"drover-join-", "eyj", "akia", "asia", "age-secret-key-", "hvs.", "hvb.", "hvr.", "ghp_", "gho_", "ghu_", "ghs_",
	"ghr_",
}

// The forms of secrets in a text.
var (
	// A private key, or its beginning if the text ends within the key.
	privateKey = regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY.*?` +
		`(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`)
	// The end of a private key, in a text that begins within the key.
	endOfKey = regexp.MustCompile(`(?s)\A.*-----END [A-Z0-9 ]*PRIVATE KEY-----`)
	// User information in a URL. A password can contain a slash or an @ that is not escaped.
	userInfo = regexp.MustCompile(`(?i)((?:\b[a-z][a-z0-9+.\-]*://|\bsftp:))[^\s"'<>]*@`)
	// The tokens of Drover and of other programs that are recognized by their form.
	knownToken = regexp.MustCompile(`drover-join-[\w\-]+|\beyJ[\w\-]+\.[\w\-]+\.[\w\-]*|` +
		`\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|` +
		`\bAGE-SECRET-KEY-[0-9A-Za-z]+|\bhv[sbr]\.[\w\-]{20,}|\bgh[pousr]_\w{20,}`)
	// NAME: VALUE or NAME=VALUE, with or without quotes. A value of JSON without quotes ends at a comma or bracket.
	assignment = regexp.MustCompile(`(?i)(\b` + secretName + `(?:\\?["']?\s*[:=][ \t]*))((?:bearer |basic )?` +
		`(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[{\[]+|(?:\\.|[^\s"])+))`)
	jsonNumber = regexp.MustCompile(`^(-?[0-9.]+)([,}\])]*)$`)
	// --NAME VALUE on a command line.
	flagValue = regexp.MustCompile(`(?i)(--` + secretName + `[ \t]+)([^\s\-][^\s]*)`)
	// The value of a setting that names a file or a program instead of a secret, with the comma or bracket after it.
	reference = regexp.MustCompile(`^["']?(?:file:|exec:|@)?/[^"'\s]*["']?[,}\])]*$`)
	// The name of a setting whose value is a path.
	pathName = regexp.MustCompile(`(?i)(?:file|path|dir|program)\\?["']?\s*[:=][ \t]*$`)
	// A value that contains no secret.
	noSecret = regexp.MustCompile(`^(?:[{\[]+|(?:""|''|null|true|false|\{\}|\[\]))[,}\])]*$`)
)

// Redact replaces the secrets of a text or of JSON. Lists and objects keep their form, so JSON stays valid.
func Redact(text []byte) []byte {
	return eachLine(redactKeys(text), func(line []byte) []byte {
		line = redactForms(line)
		if !containsAny(line, secretWords) {
			return line
		}
		line = replace(assignment, line, func(name, value string) string { return name + redactValue(name, value) })
		return replace(flagValue, line, func(name, value string) string { return name + redactValue("", value) })
	})
}

// redactKeys replaces private keys, which have several lines.
func redactKeys(text []byte) []byte {
	if !bytes.Contains(text, []byte("PRIVATE KEY")) {
		return text
	}
	text = privateKey.ReplaceAll(text, []byte(redacted))
	return endOfKey.ReplaceAll(text, []byte(redacted))
}

// redactForms replaces the secrets of a line that are recognized by their form.
func redactForms(line []byte) []byte {
	if bytes.IndexByte(line, '@') >= 0 && containsAny(line, []string{"://", "sftp:"}) {
		line = userInfo.ReplaceAll(line, []byte("${1}"+redacted+"@"))
	}
	if containsAny(line, tokenMarks) {
		line = knownToken.ReplaceAll(line, []byte(redacted))
	}
	return line
}

// containsAny reports whether a line contains one of the words, in upper or lower case. It is much faster than the
// expressions: a list of 30,000 volumes has 60 MB.
func containsAny(line []byte, words []string) bool {
	line = bytes.ToLower(line)
	for _, w := range words {
		if bytes.Contains(line, []byte(w)) {
			return true
		}
	}
	return false
}

// eachLine returns a text with each line replaced.
func eachLine(text []byte, with func([]byte) []byte) []byte {
	out := make([]byte, 0, len(text))
	for line := range bytes.Lines(text) {
		body := bytes.TrimSuffix(line, []byte("\n"))
		out = append(append(out, with(body)...), line[len(body):]...)
	}
	return out
}

func replace(form *regexp.Regexp, text []byte, with func(name, value string) string) []byte {
	return form.ReplaceAllFunc(text, func(hit []byte) []byte {
		m := form.FindSubmatch(hit)
		if m == nil { // a word boundary that depends on the text before the hit
			return []byte(redacted)
		}
		return []byte(with(string(m[1]), string(m[2])))
	})
}

// redactValue returns the value of a setting, or what replaces it.
func redactValue(name, value string) string {
	if noSecret.MatchString(value) || reference.MatchString(value) &&
		(pathName.MatchString(name) || !strings.HasPrefix(strings.Trim(value, `"'`), "/")) {
		return value
	}
	if m := jsonNumber.FindStringSubmatch(value); m != nil && strings.Contains(name, `"`) {
		return `"` + redacted + `"` + m[2]
	}
	if quote := value[:1]; quote == `"` || quote == `'` {
		return quote + redacted + quote
	}
	return redacted
}
