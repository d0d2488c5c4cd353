package status

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"

	"github.com/goccy/go-yaml"

	"github.com/droverhq/drover/dataset"
)

// redacted replaces a secret.
const redacted = "[redacted]"

// The forms of secrets in a text.
var (
	// secretName matches the name of a setting, label or variable whose value is a secret.
	secretName = `[\w.\-/]*(?:passw|passphrase|pwd|secret|token|credential|authorization|cookie|signature|` +
		`(?:api|access|account|encryption|master|private|shared)[-_.]?key)[\w.\-/]*`
	// A private key, or its beginning or end if the text is cut within the key.
	privateKey = regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`)
	endOfKey   = regexp.MustCompile(`(?s)\A.*-----END [A-Z0-9 ]*PRIVATE KEY-----`)
	// User information in a URL. A password can contain a slash or an @ that is not escaped.
	userInfo  = regexp.MustCompile(`(?i)((?:\b[a-z][a-z0-9+.\-]*://|\bsftp:))[^\s"'<>]*@`)
	joinToken = regexp.MustCompile(`drover-join-[\w\-]+`)
	// NAME: VALUE or NAME=VALUE, with or without quotes, and --NAME VALUE.
	assignment = regexp.MustCompile(`(?i)(\b` + secretName + `\\?["']?\s*[:=][ \t]*|--` + secretName + `[ \t]+)` +
		`((?:bearer |basic )?(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[{\[]+|(?:\\.|[^\s"])+))`)
	yamlSecret = regexp.MustCompile(`(?i)^\s*keys?\s*$|` + secretName)
	// A setting that names the file or the program with a secret, and a value that contains no secret.
	reference = regexp.MustCompile(`(?i)(?:file|path|dir|program)\\?["']?\s*[:= ]\s*["']?/[^"'\s]*["']?[,}\])]*$|` +
		`["']?(?:file|exec):/[^"'\s]*["']?[,}\])]*$`)
	noSecret = regexp.MustCompile(`^(?:[{\[]+|(?:""|''|null|true|false|\{\}|\[\]))[,}\])]*$`)
)

// Redact replaces the secrets of a text or of JSON. Lists, objects and strings keep their form, so JSON stays valid if
// its secrets are strings.
func Redact(text []byte) []byte {
	text = privateKey.ReplaceAll(text, []byte(redacted))
	text = endOfKey.ReplaceAll(text, []byte(redacted))
	var out []byte
	for line := range bytes.Lines(text) {
		if has(line, "://", "sftp:") {
			line = userInfo.ReplaceAll(line, []byte("${1}"+redacted+"@"))
		}
		if has(line, "drover-join") {
			line = joinToken.ReplaceAll(line, []byte(redacted))
		}
		if has(line, "pass", "pwd", "secret", "token", "credential", "authorization", "cookie", "signature", "key") {
			line = assignment.ReplaceAllFunc(line, redactAssignment)
		}
		out = append(out, line...)
	}
	return out
}

// has reports whether a line has one of the words, in upper or lower case. It is much faster than the expressions: a
// list of 30,000 volumes has 60 MB.
func has(line []byte, words ...string) bool {
	line = bytes.ToLower(line)
	return slices.ContainsFunc(words, func(w string) bool { return bytes.Contains(line, []byte(w)) })
}

func redactAssignment(hit []byte) []byte {
	m := assignment.FindSubmatch(hit)
	if m == nil { // a word boundary that depends on the text before the hit
		return []byte(redacted)
	}
	return append(m[1], redactValue(string(m[1]), string(m[2]))...)
}

// redactValue returns the value of a setting with the name of a secret, or what replaces it.
func redactValue(name, value string) string {
	if noSecret.MatchString(value) || reference.MatchString(name+value) {
		return value
	}
	if quote := value[:1]; quote == `"` || quote == `'` {
		return quote + redacted + quote
	}
	return redacted
}

// RedactYAML returns the settings of a file of YAML without its secrets and comments. Every value below a setting with
// the name of a secret is replaced, except paths, true, false, and empty values.
//
// RedactYAML fails with dataset.ErrInvalid, and returns nothing, if the text is not valid YAML: its secrets cannot be
// found then.
func RedactYAML(text []byte) ([]byte, error) {
	var document any
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // a byte order mark would be a part of the first name
	decoder := yaml.NewDecoder(bytes.NewReader(text), yaml.UseOrderedMap())
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err == nil {
		if err = decoder.Decode(new(any)); errors.Is(err, io.EOF) {
			out, err := yaml.Marshal(redactSettings("", false, document))
			return Redact(out), err
		}
	}
	return nil, dataset.Errorf(dataset.ErrInvalid, // the message of the decoder quotes the text
		"the file is not one document of valid YAML, so the secrets in it cannot be found: it is left out")
}

// redactSettings returns the value of a setting without its secrets. If secret is set, the value is a part of a secret.
func redactSettings(name string, secret bool, value any) any {
	switch v := value.(type) {
	case yaml.MapSlice:
		for i, item := range v {
			key := fmt.Sprint(item.Key)
			v[i].Value = redactSettings(key, secret || yamlSecret.MatchString(key), item.Value)
		}
		return v
	case []any:
		for i := range v {
			v[i] = redactSettings(name, secret, v[i])
		}
		return v
	case nil, bool:
		return v
	}
	if !secret {
		return value
	}
	if text := fmt.Sprint(value); text == "" || redactValue(name+":", text) == text {
		return value
	}
	return redacted
}
