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

// secretWord matches such a word, and secretName such a name.
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

// The forms of lines of YAML.
var (
	// A setting: the indentation with the marks of list items, the name with the colon, and the value.
	yamlSetting = regexp.MustCompile(`^(\s*(?:-[ \t]+)*)` +
		`((?:"[^"]*"|'[^']*'|(?:[^\s"'#:{\[?\-]|-[^\s"'#:])(?:[^:"'{}\[\],]|:+[^\s:"'])*)\s*:)(?:\s+(.*))?$`)
	// A name with its colon whose value is a secret.
	yamlSecret = regexp.MustCompile(`(?i)(?:` + secretWord + `|(?:^|[\s"'])keys?["']?\s*:$)`)
	// A text up to the first secret value in braces or brackets, and the value with the rest of the line.
	yamlFlow = regexp.MustCompile(`(?i)^((?:|.*?[{\[,])\s*` +
		`(?:[^,{}\[\]]*(?:` + secretWord + `)[^,:{}\[\]]*|["']?keys?["']?)\s*:)\s*(.*)$`)
	// A secret word, and after it a bracket, brace or comma before the colon: the word can be a part of a name.
	yamlUnclear = regexp.MustCompile(`(?i)(?:` + secretWord + `)[^:]*[\[\]{},][^:]*(?:["']\s*:|:\s|:$)`)
	// A text up to an anchor, or up to the mark of a name or value on a separate line, and the rest of the line. Such a
	// name can be one of a secret, and a secret setting can refer to the anchor.
	yamlIndirect = regexp.MustCompile(`^((?:|.*?[\s{\[,])&|\s*(?:-[ \t]+)*[?:](?:[ \t]|$))(.*)$`)
)

// RedactYAML replaces the secrets of a file of YAML, which may have mistakes, and all its comments. The lines keep
// their numbers, to which the errors about the file refer. If it is not clear whether a line belongs to a secret,
// the line is replaced.
func RedactYAML(text []byte) []byte {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	text = bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), []byte("\r"), []byte("\n"))
	lines := strings.Split(string(eachLine(redactKeys(text), redactForms)), "\n")
	r := yamlRedactor{block: -1, scalar: -1}
	for i, line := range lines {
		kept := dropComment(line)
		lines[i] = r.line(kept)
		if kept != line && (strings.Count(kept, `"`)%2 == 1 || strings.Count(kept, "'")%2 == 1) {
			r.scalar = 0 // the comment can be a part of a quoted text, with a secret after it
		}
	}
	return []byte(strings.Join(lines, "\n"))
}

// yamlRedactor redacts YAML line by line.
type yamlRedactor struct {
	// block is the column of a secret setting whose settings or list items are on the next lines, and scalar that of a
	// setting whose secret value began on its line. -1: none.
	block, scalar int
}

// line returns a line without its secrets.
func (r *yamlRedactor) line(line string) string {
	text := strings.TrimLeft(line, " \t")
	indent := line[:len(line)-len(text)]
	switch strings.TrimSpace(text) {
	case "", "#":
		return line
	case "---", "...":
		if indent == "" { // the end of a document
			*r = yamlRedactor{block: -1, scalar: -1}
			return line
		}
	}
	m := yamlSetting.FindStringSubmatch(line)
	column := len(indent)
	if m != nil {
		column = len(m[1])
	}
	// A list can have the indentation of the setting to which it belongs. A line that is no setting belongs to the
	// setting before it.
	within := func(outer int) bool { return outer >= 0 && (m == nil || column > outer) }
	if within(r.scalar) {
		r.scalar = min(r.scalar, column) // a list item after the value can begin another value
		return indent + redacted
	}
	r.scalar = -1
	nested := within(r.block)
	if !nested {
		r.block = -1
	}
	switch {
	case nested && m == nil: // its value can continue on lines that look like settings
		r.scalar = column
		if column > r.block && !strings.HasPrefix(text, "-") {
			r.scalar--
		}
		return indent + redacted
	case m != nil && (nested || yamlSecret.MatchString(m[2])):
		if m[3] == "" {
			if !nested {
				r.block = column
			}
			return m[1] + m[2]
		}
		r.scalar = column
		return m[1] + m[2] + " " + redactSetting(m[2], m[3])
	case m != nil && yamlUnclear.MatchString(m[3]):
		r.scalar = column
		return m[1] + m[2] + " " + redacted
	case m == nil:
		line = r.unclear(line, text, column)
	}
	for _, form := range []*regexp.Regexp{yamlIndirect, yamlFlow} {
		if f := form.FindStringSubmatch(line); f != nil {
			r.scalar = column
			if m == nil && !strings.HasPrefix(text, "-") { // within braces that an earlier line began
				r.scalar = 0
			}
			line = f[1]
			if f[2] != "" {
				line += " " + redactSetting(f[1], f[2])
			}
		}
	}
	return string(Redact([]byte(line)))
}

// unclear returns a line that is no setting. If it has a secret word and a colon, the word can be a part of a name, as
// in env[DB_PASSWORD], and all text after the first colon is redacted.
func (r *yamlRedactor) unclear(line, text string, column int) string {
	before, _, found := strings.Cut(line, ":")
	if !found || !containsAny([]byte(line), secretWords) {
		return line
	}
	if r.scalar = column; !strings.HasPrefix(text, "-") { // it can be within braces that an earlier line began
		r.scalar = 0
	}
	return before + ": " + redacted
}

// redactSetting returns the value of a setting of YAML, up to the end of the line, or what replaces it.
func redactSetting(name, value string) string {
	switch value {
	case "|", ">", "|-", ">-", "|+", ">+": // the lines after it are redacted
		return value
	}
	return redactValue(name, value)
}

// dropComment returns a line of YAML without its comment.
func dropComment(line string) string {
	if strings.HasPrefix(strings.TrimLeft(line, " \t"), "#") {
		return "#"
	}
	for i := 1; i < len(line); i++ {
		if line[i] == '#' && bytes.ContainsRune([]byte(" \t"), rune(line[i-1])) {
			return strings.TrimRight(line[:i], " \t")
		}
	}
	return line
}
