-- Endpoints: what is refused, what is changed, who sees the password.
\set SHOW_CONTEXT never
SELECT trem.create_endpoint('Main', 'source');
SELECT trem.create_endpoint('main', 'sauce');
SELECT trem.create_endpoint('main', 'source', kind => 'oracle');
SELECT trem.create_endpoint('main', 'source', dbname => 'another');
SELECT trem.create_endpoint('main', 'source', port => 70000);
SELECT trem.create_endpoint('main', 'source', options => '{"ssl": "on"}');
SELECT trem.create_endpoint('main', 'source', options => '{"sslmode": "yes"}');
SELECT trem.create_endpoint('main', 'source', options => '[]');
SELECT trem.create_endpoint('main', 'source', password => 'x', options => '{"password_env": "P"}');
SELECT count(*) FROM trem.endpoint;

SELECT trem.create_endpoint('main', 'source', username => 'applier');
SELECT trem.create_endpoint('main', 'source');
SELECT trem.create_endpoint('copy', 'target', dbname => 'copy', host => 'db.example', port => 5433,
                            password => 'secret', options => '{"sslmode": "verify-full"}');
SELECT dbname = current_database() AS here, username FROM trem.endpoint WHERE name = 'main';

-- Only what is given changes; an empty text or a null option takes away.
SELECT trem.alter_endpoint('copy', port => 5434, options => '{"connect_timeout": 5}');
SELECT dbname, host, port, password, options FROM trem.endpoint WHERE name = 'copy';
SELECT trem.alter_endpoint('copy', host => '', password => '', options => '{"sslmode": null}');
SELECT dbname, host, port, password, options FROM trem.endpoint WHERE name = 'copy';
SELECT trem.alter_endpoint('nope', port => 1);
SELECT trem.alter_endpoint('main', dbname => 'another');

SELECT trem.drop_endpoint('nope');
CREATE TABLE public.t (a int PRIMARY KEY);
SELECT trem.create_task('uses', 'main', 'copy', '{public.t}') IS NOT NULL AS made;
SELECT trem.drop_endpoint('copy');
SELECT trem.drop_task('uses');
SELECT trem.drop_endpoint('copy');
SELECT trem.drop_endpoint('main');
DROP TABLE public.t;
